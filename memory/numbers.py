"""Numbers that the store gave out: a row of such a number that is not there was lost.

Processes and contexts are numbered in order and never removed (SQLite's AUTOINCREMENT; see
sqlite.org/autoinc.html), so "there is none" and "it is lost" can be told apart.
"""

from typing import Literal

from sqlalchemy import Connection

from .checksum import damage

Numbered = Literal["process", "context"]


def last_given(connection: Connection, table: Numbered) -> int:
    """The highest number that a row of the table ever had; 0 if there was none."""
    found = connection.exec_driver_sql("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,))
    number = found.scalar()
    if not isinstance(number, int | None):
        raise damage(f"the last number of a {table} is damaged")
    return number or 0


def was_given(connection: Connection, table: Numbered, number: int) -> bool:
    """Whether a row of the table had this number."""
    return 1 <= number <= last_given(connection, table)
