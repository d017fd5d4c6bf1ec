"""Stores as older versions left them, with something in them.

The schema of version 3 is written out, since the steps of today make today's tables; the versions
after it come from the steps themselves.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from llmos.memory.checksum import checksum
from llmos.memory.db import writer_engine
from llmos.memory.driver import driver_of
from llmos.memory.migrations import APPLICATION_ID, SEARCH_INDEX, STEPS

OLDEST = 3
VERSIONS = range(OLDEST, len(STEPS))
SCHEMA = """
CREATE TABLE space (
  id INTEGER NOT NULL, tenant TEXT NOT NULL, name TEXT NOT NULL,
  PRIMARY KEY (id), UNIQUE (tenant, name));
CREATE TABLE session (
  id INTEGER NOT NULL, space_id INTEGER NOT NULL, name TEXT NOT NULL, started_at FLOAT NOT NULL,
  PRIMARY KEY (id), UNIQUE (space_id, name), FOREIGN KEY(space_id) REFERENCES space (id));
CREATE TABLE item (
  id INTEGER NOT NULL, uid TEXT NOT NULL, space_id INTEGER NOT NULL, session_id INTEGER,
  seq INTEGER NOT NULL, kind TEXT NOT NULL, role TEXT NOT NULL, recorded_at FLOAT NOT NULL,
  valid_to FLOAT, superseded_by INTEGER, deleted_at FLOAT, checksum BLOB NOT NULL,
  head TEXT NOT NULL, body TEXT NOT NULL, ctx TEXT NOT NULL,
  PRIMARY KEY (id), UNIQUE (session_id, seq), UNIQUE (uid),
  FOREIGN KEY(space_id) REFERENCES space (id), FOREIGN KEY(session_id) REFERENCES session (id),
  FOREIGN KEY(superseded_by) REFERENCES item (id));
CREATE TABLE item_source (
  item_id INTEGER NOT NULL, source_item_id INTEGER NOT NULL,
  PRIMARY KEY (item_id, source_item_id), FOREIGN KEY(item_id) REFERENCES item (id),
  FOREIGN KEY(source_item_id) REFERENCES item (id));
CREATE TABLE context (
  id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, pid INTEGER NOT NULL, created_at FLOAT NOT NULL);
CREATE TABLE message (
  context_id INTEGER NOT NULL, pos INTEGER NOT NULL, role TEXT NOT NULL, checksum BLOB NOT NULL,
  body BLOB NOT NULL,
  PRIMARY KEY (context_id, pos), FOREIGN KEY(context_id) REFERENCES context (id));
CREATE TABLE process (
  pid INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, parent INTEGER, app TEXT NOT NULL,
  tenant TEXT NOT NULL, model TEXT NOT NULL, state TEXT NOT NULL, exit_status TEXT,
  exit_code INTEGER, created_at FLOAT NOT NULL, ended_at FLOAT, prompt_tokens INTEGER NOT NULL,
  completion_tokens INTEGER NOT NULL, spec BLOB NOT NULL, result TEXT);
CREATE TABLE journal (
  id INTEGER NOT NULL, pid INTEGER NOT NULL, strand TEXT NOT NULL, seq INTEGER NOT NULL,
  name TEXT NOT NULL, effect TEXT NOT NULL, digest BLOB NOT NULL, label TEXT NOT NULL,
  code_hash TEXT NOT NULL, started_at FLOAT NOT NULL, state TEXT NOT NULL, ended_at FLOAT,
  prev_hash BLOB NOT NULL, checksum BLOB NOT NULL, result BLOB, error BLOB,
  PRIMARY KEY (id), UNIQUE (pid, strand, seq));
CREATE INDEX journal_pid ON journal (pid);
CREATE TABLE output (
  pid INTEGER NOT NULL, offset_chars INTEGER NOT NULL, num_chars INTEGER NOT NULL,
  text TEXT NOT NULL, PRIMARY KEY (pid, offset_chars));
CREATE TABLE last_commit (id INTEGER NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (id));
"""
NUM_CALLS = 5
LARGE = b"a body that would be kept apart today " * 1000


def make_old_store(path: Path, version: int = OLDEST, num_processes: int = 2) -> None:
    """Write a store of that version."""
    with closing(sqlite3.connect(path)) as driver, driver:
        driver.executescript(SCHEMA)
        driver.execute(SEARCH_INDEX)
        driver.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        driver.execute(f"PRAGMA user_version = {OLDEST}")
        for pid in range(1, num_processes + 1):
            _add_process(driver, pid)
    step_up(path, version)


def step_up(path: Path, version: int) -> None:
    """Take the steps up to a version."""
    with writer_engine(path).connect() as connection:
        driver_of(connection).create_function("llmos_checksum", -1, checksum)
        for number in range(OLDEST, version):
            STEPS[number](connection)
            connection.exec_driver_sql(f"PRAGMA user_version = {number + 1}")


def _add_process(driver: sqlite3.Connection, pid: int) -> None:
    driver.execute(
        "INSERT INTO process VALUES (?, NULL, 'old', 'local', 'echo', 'ZOMBIE', 'exited', 0, 1.5,"
        " 9.5, 1, 2, X'00ff', 'done')",
        (pid,),
    )
    prev_hash = b""
    for seq in range(NUM_CALLS):
        prev_hash = _add_call(driver, pid, seq, prev_hash)
    for offset, text in ((0, "héllo "), (6, "world")):
        driver.execute("INSERT INTO output VALUES (?, ?, ?, ?)", (pid, offset, len(text), text))
    driver.execute("INSERT INTO context VALUES (?, ?, 2.5)", (pid, pid))
    body = b"\x82\xa4role\xa4user\xa7content\xa2hi"
    driver.execute(
        "INSERT INTO message VALUES (?, 0, 'user', ?, ?)", (pid, checksum(pid, 0, body), body)
    )
    driver.execute("INSERT INTO space VALUES (?, 't', ?)", (pid, f"space {pid}"))
    uid, text = f"uid {pid}", f"note {pid} about cats"
    driver.execute(
        "INSERT INTO item VALUES (?, ?, ?, NULL, 0, 'note', '', 3.5, NULL, NULL, NULL, ?, '', ?,"
        " '')",
        (pid, uid, pid, checksum(uid, text), text),
    )
    driver.execute(
        "INSERT INTO item_fts(rowid, body, ctx, head) VALUES (?, ?, '', '')", (pid, text)
    )


def _add_call(driver: sqlite3.Connection, pid: int, seq: int, prev_hash: bytes) -> bytes:
    """A call that has ended; the hash for the next one."""
    intent = (pid, "0", seq, "tool", "once", bytes([seq]) * 16, "user", "1", 10.0 + seq)
    outcome = ("DONE", LARGE if seq == 2 else b"result %d" % seq, None, 11.0 + seq)
    proof = checksum(*intent, *outcome, prev_hash)
    driver.execute(
        "INSERT INTO journal(pid, strand, seq, name, effect, digest, label, code_hash, started_at,"
        " state, result, error, ended_at, prev_hash, checksum)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*intent, *outcome, prev_hash, proof),
    )
    return checksum(*intent, prev_hash)
