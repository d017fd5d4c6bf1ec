"""Contexts: the ordered messages that a process's generations see, kept message by message.

Contexts are numbered within their process, so that a copied journal names the copy's own. A message
is never changed once written. Each carries a checksum over its place and its bytes, so a prompt is
never made from a damaged one. A process reaches its own contexts and no others.
"""

import time
from collections.abc import Mapping

import msgspec
from sqlalchemy import Connection

from llmos.syscalls.errors import E_ARG, E_STORAGE
from llmos.syscalls.types import Message

from .checksum import checksum

ALL = 2**53
READ = "SELECT pos, body, checksum FROM message WHERE context_id = ? AND pos < ? ORDER BY pos"
COUNT = (
    "SELECT number, (SELECT count(*) FROM message WHERE context_id = context.id) AS num_messages"
    " FROM context WHERE pid = ? ORDER BY number"
)
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


def create(connection: Connection, pid: int, messages: tuple[Message, ...]) -> int:
    """Start a context of process `pid`; its number."""
    number = connection.exec_driver_sql(
        "SELECT coalesce(max(number), 0) + 1 FROM context WHERE pid = ?", (pid,)
    ).scalar_one()
    insert(connection, pid, number, messages)
    return int(number)


def append(connection: Connection, pid: int, number: int, messages: tuple[Message, ...]) -> int:
    """Add messages at the end; how many there are now. E_ARG as for `read`."""
    context_id = find(connection, pid, number)
    num_messages = connection.exec_driver_sql(
        "SELECT coalesce(max(pos) + 1, 0) FROM message WHERE context_id = ?", (context_id,)
    ).scalar_one()
    insert_messages(connection, context_id, num_messages, messages)
    return int(num_messages) + len(messages)


def read(
    connection: Connection, pid: int, number: int, num_messages: int = ALL
) -> tuple[Message, ...]:
    """The first messages in order, byte for byte as they were given.

    E_ARG for a context that this process has not, E_STORAGE for a damaged one.
    """
    context_id = find(connection, pid, number)
    rows = connection.exec_driver_sql(READ, (context_id, num_messages)).all()
    for expected, row in enumerate(rows):
        if row.pos != expected or row.checksum != checksum(context_id, row.pos, row.body):
            raise E_STORAGE(f"message {expected} of context {number} of process {pid} is damaged")
    return tuple(_decoder.decode(row.body) for row in rows)


def count_messages(connection: Connection, pid: int) -> dict[int, int]:
    """How many messages each context of a process has, by its number."""
    return {row.number: row.num_messages for row in connection.exec_driver_sql(COUNT, (pid,))}


def copy(connection: Connection, source: int, target: int, lengths: Mapping[int, int]) -> None:
    """Give process `target` the contexts of `source`, each with its first messages.

    `lengths` are these messages' counts by the context's number. E_STORAGE for damaged ones.
    """
    for number, num_messages in lengths.items():
        insert(connection, target, number, read(connection, source, number, num_messages))


def find(connection: Connection, pid: int, number: int) -> int:
    """The id of a process's context. E_ARG if it has none of this number."""
    context_id = connection.exec_driver_sql(
        "SELECT id FROM context WHERE pid = ? AND number = ?", (pid, number)
    ).scalar()
    if context_id is None:
        raise E_ARG(f"process {pid} has no context {number}", field="context")
    return int(context_id)


def insert(connection: Connection, pid: int, number: int, messages: tuple[Message, ...]) -> None:
    """Write a context of this number with its first messages."""
    row = connection.exec_driver_sql(
        "INSERT INTO context(pid, created_at, number) VALUES (?, ?, ?)", (pid, time.time(), number)
    )
    insert_messages(connection, int(row.lastrowid), 0, messages)


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
