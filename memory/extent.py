"""How far a process's journal, output and contexts reach, so that a missing row is noticed.

A chain of hashes finds a row that was taken out between two others. One that is gone from the end,
or that an index no longer leads to, breaks no chain: so each process has one row that counts its
journal's rows, its output's characters and its contexts, and holds the hashes before the journal's
first row and of its last. It changes in the transactions that change those.
"""

import sqlite3
from typing import NamedTuple

from .checksum import checksum, damage

FIRST_HASH = b""
COLUMNS = "num_rows, first_hash, last_hash, num_chars, num_contexts"
FIND = f"SELECT {COLUMNS}, checksum FROM extent WHERE pid = ?"
KEEP = f"INSERT OR REPLACE INTO extent(pid, {COLUMNS}, checksum) VALUES (?, ?, ?, ?, ?, ?, ?)"


class Extent(NamedTuple):
    """The journal's number of rows, the hashes around them, the output's length, the contexts."""

    num_rows: int = 0
    first_hash: bytes = FIRST_HASH
    last_hash: bytes = FIRST_HASH
    num_chars: int = 0
    num_contexts: int = 0


NOTHING = Extent()


def read(driver: sqlite3.Connection, pid: int) -> Extent:
    """How far a process came. E_STORAGE if what says so is damaged."""
    found = driver.execute(FIND, (pid,)).fetchone()
    if found is None:
        return NOTHING
    *fields, proof = found
    if checksum(pid, *fields) != proof:
        raise damage(f"the record of how far process {pid} came is damaged")
    return Extent(*fields)


def keep(driver: sqlite3.Connection, pid: int, extent: Extent) -> None:
    """Write how far a process came, in the transaction that brought it there."""
    driver.execute(KEEP, (pid, *extent, checksum(pid, *extent)))
