"""Contexts: the ordered messages that a process's generations see, kept message by message.

Contexts are numbered within their process, so a copied journal names the copy's own. A message is
never changed once written. Each carries a checksum over its place and its bytes, so a prompt is
never made from a damaged one. A process reaches its own contexts and no others.
"""

import time
from collections.abc import Mapping

import msgspec
from sqlalchemy import Connection

from llmos.syscalls.errors import E_ARG, E_STORAGE
from llmos.syscalls.types import Message

from .checksum import checksum

READ = (
    "SELECT pos, body, checksum FROM message"
    " WHERE pid = ? AND context = ? AND pos < ? ORDER BY pos"
)
ALL = 2**53
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


def create(connection: Connection, pid: int, messages: tuple[Message, ...]) -> int:
    """Start a context of process `pid`; its number."""
    number = connection.exec_driver_sql(
        "SELECT coalesce(max(number), 0) + 1 FROM context WHERE pid = ?", (pid,)
    ).scalar_one()
    insert_context(connection, pid, number)
    insert_messages(connection, pid, number, 0, messages)
    return int(number)


def append(connection: Connection, pid: int, number: int, messages: tuple[Message, ...]) -> int:
    """Add messages at the end; how many there are now. E_ARG as for `read`."""
    require_context(connection, pid, number)
    num_messages = int(
        connection.exec_driver_sql(
            "SELECT coalesce(max(pos) + 1, 0) FROM message WHERE pid = ? AND context = ?",
            (pid, number),
        ).scalar_one()
    )
    insert_messages(connection, pid, number, num_messages, messages)
    return num_messages + len(messages)


def read(
    connection: Connection, pid: int, number: int, num_messages: int = ALL
) -> tuple[Message, ...]:
    """The first messages in order, byte for byte as they were given.

    E_ARG for a context that this process has not, E_STORAGE for a damaged one.
    """
    require_context(connection, pid, number)
    rows = connection.exec_driver_sql(READ, (pid, number, num_messages)).all()
    for expected, row in enumerate(rows):
        if row.pos != expected or row.checksum != checksum(pid, number, row.pos, row.body):
            raise E_STORAGE(f"message {expected} of context {number} of process {pid} is damaged")
    return tuple(_decoder.decode(row.body) for row in rows)


def count_messages(connection: Connection, pid: int) -> dict[int, int]:
    """How many messages each context of a process has, by its number."""
    rows = connection.exec_driver_sql(
        "SELECT number, (SELECT count(*) FROM message"
        " WHERE message.pid = context.pid AND message.context = context.number) AS num_messages"
        " FROM context WHERE pid = ? ORDER BY number",
        (pid,),
    )
    return {row.number: row.num_messages for row in rows}


def copy(connection: Connection, source: int, target: int, lengths: Mapping[int, int]) -> None:
    """Give process `target` the contexts of `source`, each with its first messages.

    `lengths` are these messages' counts by the context's number. E_STORAGE for damaged ones.
    """
    for number, num_messages in lengths.items():
        messages = read(connection, source, number, num_messages)
        insert_context(connection, target, number)
        insert_messages(connection, target, number, 0, messages)


def require_context(connection: Connection, pid: int, number: int) -> None:
    """E_ARG unless the process has this context."""
    found = connection.exec_driver_sql(
        "SELECT 1 FROM context WHERE pid = ? AND number = ?", (pid, number)
    ).scalar()
    if found is None:
        raise E_ARG(f"process {pid} has no context {number}", field="context")


def insert_context(connection: Connection, pid: int, number: int) -> None:
    """Write a context without messages."""
    connection.exec_driver_sql("INSERT INTO context VALUES (?, ?, ?)", (pid, number, time.time()))


def insert_messages(
    connection: Connection, pid: int, number: int, first_pos: int, messages: tuple[Message, ...]
) -> None:
    """Write messages from `first_pos` on. E_ARG for text that is not valid Unicode."""
    rows = []
    for pos, message in enumerate(messages, start=first_pos):
        try:
            body = _encoder.encode(message)
        except UnicodeEncodeError as error:
            raise E_ARG("a message holds half of a surrogate pair", field="messages") from error
        rows.append((pid, number, pos, message.role, checksum(pid, number, pos, body), body))
    if rows:
        connection.exec_driver_sql(
            "INSERT INTO message(pid, context, pos, role, checksum, body)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            rows,
        )
