"""Contexts: the ordered messages that a process's generations see, kept message by message.

A message is never changed once written. Each carries a checksum over its place and its bytes, so
a prompt is never made from a damaged one. Only the process that made a context may use it.
"""

import time

import msgspec
from sqlalchemy import Connection

from llmos.syscalls.errors import E_ARG, E_PERM, E_STORAGE
from llmos.syscalls.types import Message

from .checksum import checksum

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


def create(connection: Connection, pid: int, messages: tuple[Message, ...]) -> int:
    """Start a context of process `pid`; its number."""
    row = connection.exec_driver_sql(
        "INSERT INTO context(pid, created_at) VALUES (?, ?)", (pid, time.time())
    )
    context_id = int(row.lastrowid)
    insert_messages(connection, context_id, 0, messages)
    return context_id


def append(connection: Connection, pid: int, context_id: int, messages: tuple[Message, ...]) -> int:
    """Add messages at the end; how many there are now. E_ARG or E_PERM as for `read`."""
    require_owner(connection, pid, context_id)
    num_messages = connection.exec_driver_sql(
        "SELECT coalesce(max(pos) + 1, 0) FROM message WHERE context_id = ?", (context_id,)
    ).scalar_one()
    insert_messages(connection, context_id, num_messages, messages)
    return int(num_messages) + len(messages)


def read(connection: Connection, pid: int, context_id: int) -> tuple[Message, ...]:
    """The messages in order, byte for byte as they were given.

    E_ARG for an unknown context, E_PERM for another process's, E_STORAGE for a damaged one.
    """
    require_owner(connection, pid, context_id)
    rows = connection.exec_driver_sql(
        "SELECT pos, body, checksum FROM message WHERE context_id = ? ORDER BY pos", (context_id,)
    ).all()
    for expected, row in enumerate(rows):
        if row.pos != expected or row.checksum != checksum(context_id, row.pos, row.body):
            raise E_STORAGE(f"message {expected} of context {context_id} is damaged")
    return tuple(_decoder.decode(row.body) for row in rows)


def require_owner(connection: Connection, pid: int, context_id: int) -> None:
    """E_ARG if there is no such context, E_PERM if it is another process's."""
    owner = connection.exec_driver_sql(
        "SELECT pid FROM context WHERE id = ?", (context_id,)
    ).scalar()
    if owner is None:
        raise E_ARG(f"there is no context {context_id}", field="context")
    if owner != pid:
        raise E_PERM(f"context {context_id} is another process's", field="context")


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
