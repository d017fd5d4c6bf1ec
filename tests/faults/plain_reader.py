"""The control of the damage suite: a store read with no more than SQLite's own checks."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

from llmos.memory.entry import STORE_ERRORS

JOURNAL = (
    "SELECT strand, seq, name, digest, state, coalesce(result, error,"
    " (SELECT body FROM blob WHERE digest = journal.blob)), started_at, ended_at"
    " FROM journal WHERE pid = ? ORDER BY id"
)
QUERIES = {
    "record": "SELECT app, model, state, spec, completion_tokens FROM process WHERE pid = ?",
    "journal": JOURNAL,
    "output": "SELECT text FROM output WHERE pid = ? ORDER BY offset_chars",
    "mail": "SELECT sender, sent_at, text FROM mail WHERE pid = ? ORDER BY id LIMIT 1",
    "context": "SELECT role, body FROM message WHERE context_id = ? ORDER BY pos",
}
NOTES = (
    "SELECT uid, item.body, kind, role, recorded_at"
    " FROM item_fts JOIN item ON item.id = item_fts.rowid"
    " WHERE item_fts MATCH 'cats' ORDER BY item.id"
)


def read_plainly(
    path: Path, num_processes: int = 4
) -> tuple[dict[str, object], dict[str, BaseException]]:
    """Values and errors by name, as the suite's own readers give them."""
    values: dict[str, object] = {}
    errors: dict[str, BaseException] = {}
    with closing(sqlite3.connect(path)) as driver:
        wanted: dict[str, Callable[[], sqlite3.Cursor]] = {
            f"{kind} {pid}": partial(driver.execute, query, (pid,))
            for kind, query in QUERIES.items()
            for pid in range(1, num_processes + 1)
        }
        wanted["notes"] = partial(driver.execute, NOTES)
        for name, read in wanted.items():
            try:
                found = read().fetchall()
            except STORE_ERRORS as error:
                errors[name] = error
            else:
                values[name] = frozenset(found) if name == "notes" else found
    return values, errors
