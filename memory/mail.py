"""Mailboxes: messages between processes, each from `post` until it is taken.

Ids count up and are never used twice. The functions that take a connection run inside
`Database.write`, so that a message and the call that sent or took it share one transaction. Each
carries a checksum over whose it is and what it says.
"""

from collections.abc import Collection, Iterator

import msgspec
from sqlalchemy import Connection

from .checksum import checksum, damage
from .db import Database
from .driver import driver_of

MAX_MAIL = 1000
READ = "SELECT id, sender, sent_at, text, checksum FROM mail"


class Letter(msgspec.Struct, frozen=True):
    """One message. `sender` is a pid; `sent_at` is in Unix seconds."""

    id: int
    sender: int
    sent_at: float
    text: str


def post(connection: Connection, pid: int, sender: int, sent_at: float, text: str) -> int | None:
    """Put a message into a process's box; its id, or None: there are MAX_MAIL in it."""
    driver = driver_of(connection)
    num_letters = driver.execute("SELECT count(*) FROM mail WHERE pid = ?", (pid,)).fetchone()[0]
    if num_letters >= MAX_MAIL:
        return None
    letter = (pid, sender, float(sent_at), text)
    insert = "INSERT INTO mail(pid, sender, sent_at, text, checksum) VALUES (?, ?, ?, ?, ?)"
    return driver.execute(insert, (*letter, checksum(*letter))).lastrowid


async def find_oldest(db: Database, pid: int, apart_from: Collection[int] = ()) -> Letter | None:
    """The oldest message in a process's box, these ids passed over. E_STORAGE if it is damaged."""
    marks = ", ".join("?" * len(apart_from))
    query = f"{READ} WHERE pid = ? AND id NOT IN ({marks}) ORDER BY id LIMIT 1"
    row = await db.read(
        lambda connection: connection.exec_driver_sql(query, (pid, *apart_from)).first()
    )
    return None if row is None else to_letter(pid, *row)


def walk(connection: Connection, pid: int) -> Iterator[Letter]:
    """All messages in a process's box, oldest first. E_STORAGE for one that is damaged."""
    for row in driver_of(connection).execute(f"{READ} WHERE pid = ? ORDER BY id", (pid,)):
        yield to_letter(pid, *row)


def to_letter(
    pid: int, letter: int, sender: int, sent_at: float, text: str, proof: bytes
) -> Letter:
    """A row of READ as a message to this process. E_STORAGE if it is damaged."""
    if checksum(pid, sender, sent_at, text) != proof:
        raise damage(f"message {letter} to process {pid} is damaged")
    return Letter(letter, sender, sent_at, text)


def take(connection: Connection, letter: int) -> None:
    """Remove a message from its box."""
    driver_of(connection).execute("DELETE FROM mail WHERE id = ?", (letter,))


def empty_box(connection: Connection, pid: int) -> None:
    """Nobody will take a process's messages any more."""
    driver_of(connection).execute("DELETE FROM mail WHERE pid = ?", (pid,))
