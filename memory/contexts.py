"""Contexts: the ordered messages that a process's generations see, kept message by message.

A message is never changed once written. Each carries a checksum over its place and its bytes, and
the context one over its owner and how many messages it has, so a prompt is never made from a
damaged one, or from a part. Only the process that made a context may use it.
"""

import time
from typing import Any

import msgspec
from sqlalchemy import Connection

from llmos.syscalls.errors import E_ARG, E_PERM
from llmos.syscalls.types import Message

from .checksum import checksum, damage
from .numbers import was_given

FIND = "SELECT id, pid, created_at, num_messages, checksum FROM context WHERE id = ?"
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


def create(connection: Connection, pid: int, messages: tuple[Message, ...]) -> int:
    """Start a context of process `pid`; its number."""
    row = connection.exec_driver_sql(
        "INSERT INTO context(pid, created_at) VALUES (?, ?)", (pid, time.time())
    )
    context_id = int(row.lastrowid)
    insert_messages(connection, context_id, 0, messages)
    seal(connection, context_id, len(messages))
    return context_id


def append(connection: Connection, pid: int, context_id: int, messages: tuple[Message, ...]) -> int:
    """Add messages at the end; how many there are now. E_ARG or E_PERM as for `read`."""
    num_messages = int(require_owner(connection, pid, context_id).num_messages)
    insert_messages(connection, context_id, num_messages, messages)
    seal(connection, context_id, num_messages + len(messages))
    return num_messages + len(messages)


def read(connection: Connection, pid: int, context_id: int) -> tuple[Message, ...]:
    """The messages in order, byte for byte as they were given.

    E_ARG for an unknown context, E_PERM for another process's, E_STORAGE for a damaged one.
    """
    num_messages = require_owner(connection, pid, context_id).num_messages
    rows = connection.exec_driver_sql(
        "SELECT pos, body, checksum FROM message WHERE context_id = ? ORDER BY pos", (context_id,)
    ).all()
    for expected, row in enumerate(rows):
        if row.pos != expected or row.checksum != checksum(context_id, row.pos, row.body):
            raise damage(f"message {expected} of context {context_id} of process {pid} is damaged")
    if len(rows) != num_messages:
        raise damage(
            f"context {context_id} of process {pid} has {len(rows)} messages"
            f" and should have {num_messages}"
        )
    return tuple(_decoder.decode(row.body) for row in rows)


def find_owner(connection: Connection, context_id: int) -> int:
    """Whose context it is. E_ARG if there is none, E_STORAGE if that is damaged."""
    return int(find(connection, context_id).pid)


def find(connection: Connection, context_id: int) -> Any:
    """A context's row. E_ARG if there is none, E_STORAGE if it is damaged or lost."""
    row = connection.exec_driver_sql(FIND, (context_id,)).first()
    if row is None:
        if was_given(connection, "context", context_id):
            raise damage(f"context {context_id} is missing")
        raise E_ARG(f"there is no context {context_id}", field="context")
    if row.checksum != checksum(*row[:-1]):
        raise damage(f"the record of context {context_id} is damaged")
    return row


def require_owner(connection: Connection, pid: int, context_id: int) -> Any:
    """A context's row. As `find`, and E_PERM if it is another process's."""
    row = find(connection, context_id)
    if row.pid != pid:
        raise E_PERM(f"context {context_id} is another process's", field="context")
    return row


def seal(connection: Connection, context_id: int, num_messages: int) -> None:
    """Write how many messages there are now, and the checksum of the context's row."""
    row = connection.exec_driver_sql(
        "UPDATE context SET num_messages = ? WHERE id = ? RETURNING id, pid, created_at,"
        " num_messages",
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
