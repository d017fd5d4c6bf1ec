"""Contexts: the ordered messages that a process's generations see, kept message by message.

Contexts are numbered within their process, so that a copied journal names the copy's own. A message
is never changed once written. Each carries a checksum over its place and its bytes, the context one
over its owner and how many messages it has, and the process's extent counts its contexts: so a
prompt is never made from a damaged one, or from a part. A process reaches its own contexts and no
others.
"""

import time
from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection

from llmos.syscalls.errors import E_ARG
from llmos.syscalls.types import Message

from . import extent
from .checksum import checksum, damage
from .driver import driver_of

ALL = 2**53
READ = "SELECT pos, body, checksum FROM message WHERE context_id = ? AND pos < ? ORDER BY pos"
SEALED = "id, pid, created_at, number, num_messages"
FIND = f"SELECT {SEALED}, checksum FROM context WHERE pid = ? AND number = ?"
COUNT = "SELECT coalesce(max(number), 0) AS last, count(*) AS num FROM context WHERE pid = ?"
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


def create(connection: Connection, pid: int, messages: tuple[Message, ...]) -> int:
    """Start a context of process `pid`; its number."""
    number = require_all(connection, pid) + 1
    insert(connection, pid, number, messages)
    return number


def append(connection: Connection, pid: int, number: int, messages: tuple[Message, ...]) -> int:
    """Add messages at the end; how many there are now. E_ARG as for `read`."""
    context = find(connection, pid, number)
    insert_messages(connection, context.id, context.num_messages, messages)
    seal(connection, context.id, context.num_messages + len(messages))
    return int(context.num_messages) + len(messages)


def read(
    connection: Connection, pid: int, number: int, num_messages: int = ALL
) -> tuple[Message, ...]:
    """The first messages in order, byte for byte as they were given.

    E_ARG for a context that this process has not, E_STORAGE for a damaged one.
    """
    context = find(connection, pid, number)
    rows = connection.exec_driver_sql(READ, (context.id, num_messages)).all()
    for expected, row in enumerate(rows):
        if row.pos != expected or row.checksum != checksum(context.id, row.pos, row.body):
            raise damage(f"message {expected} of context {number} of process {pid} is damaged")
    num_wanted = min(num_messages, context.num_messages)
    if len(rows) != num_wanted:
        raise damage(
            f"context {number} of process {pid} has {len(rows)} messages"
            f" and should have {num_wanted}"
        )
    return tuple(_decoder.decode(row.body) for row in rows)


def count_messages(connection: Connection, pid: int) -> dict[int, int]:
    """How many messages each context of a process has, by its number."""
    require_all(connection, pid)
    found = connection.exec_driver_sql(
        "SELECT number FROM context WHERE pid = ? ORDER BY number", (pid,)
    )
    numbers = found.scalars().all()
    return {number: find(connection, pid, number).num_messages for number in numbers}


def copy(connection: Connection, source: int, target: int, lengths: Mapping[int, int]) -> None:
    """Give process `target` the contexts of `source`, each with its first messages.

    `lengths` are these messages' counts by the context's number. E_STORAGE for damaged ones.
    """
    for number, num_messages in lengths.items():
        insert(connection, target, number, read(connection, source, number, num_messages))


def find(connection: Connection, pid: int, number: int) -> Any:
    """The row of a process's context. E_ARG if it has none of this number, E_STORAGE if damaged."""
    row = connection.exec_driver_sql(FIND, (pid, number)).first()
    if row is None:
        count_messages(connection, pid)  # none is missing or has another number than it was given
        raise E_ARG(f"process {pid} has no context {number}", field="context")
    if row.checksum != checksum(*row[:-1]) or (row.pid, row.number) != (pid, number):
        raise damage(f"the record of context {number} of process {pid} is damaged")
    return row


def require_all(connection: Connection, pid: int) -> int:
    """The highest number of a process's contexts; E_STORAGE if one of them is missing."""
    there = connection.exec_driver_sql(COUNT, (pid,)).one()
    if there.num != extent.read(driver_of(connection), pid).num_contexts:
        raise damage(f"a context of process {pid} is missing")
    return int(there.last)


def insert(connection: Connection, pid: int, number: int, messages: tuple[Message, ...]) -> None:
    """Write a context of this number with its first messages."""
    row = connection.exec_driver_sql(
        "INSERT INTO context(pid, created_at, number) VALUES (?, ?, ?)", (pid, time.time(), number)
    )
    context_id = int(row.lastrowid)
    insert_messages(connection, context_id, 0, messages)
    seal(connection, context_id, len(messages))
    driver = driver_of(connection)
    reach = extent.read(driver, pid)
    extent.keep(driver, pid, reach._replace(num_contexts=reach.num_contexts + 1))


def seal(connection: Connection, context_id: int, num_messages: int) -> None:
    """Write how many messages there are now, and the checksum of the context's row."""
    row = connection.exec_driver_sql(
        f"UPDATE context SET num_messages = ? WHERE id = ? RETURNING {SEALED}",
        (num_messages, context_id),
    ).one()
    connection.exec_driver_sql(
        "UPDATE context SET checksum = ? WHERE id = ?", (checksum(*row), context_id)
    )


def insert_messages(
    connection: Connection, context_id: int, first_pos: int, messages: tuple[Message, ...]
) -> None:
    """Write messages from `first_pos` on. E_ARG for text that is not valid Unicode."""
    rows = []
    for pos, message in enumerate(messages, start=first_pos):
        try:
            body = _encoder.encode(message)
        except UnicodeEncodeError as error:
            raise E_ARG("a message holds half of a surrogate pair", field="messages") from error
        rows.append((context_id, pos, message.role, checksum(context_id, pos, body), body))
    if rows:
        connection.exec_driver_sql(
            "INSERT INTO message(context_id, pos, role, checksum, body) VALUES (?, ?, ?, ?, ?)",
            rows,
        )
