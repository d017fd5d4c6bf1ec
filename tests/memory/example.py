"""A store with processes in it, and everything that can be read of them by our own readers."""

import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import msgspec

from llmos.memory import contexts, mail, processes, store
from llmos.memory.blobs import MAX_ROW_BODY_BYTES
from llmos.memory.db import Connection, Database
from llmos.memory.journal import (
    JournalRow,
    append_output,
    find,
    finish_row,
    insert_row,
    load,
    read_output,
)
from llmos.memory.logs import read_calls
from llmos.memory.logs import read_output as read_pieces
from llmos.memory.recall import recall
from llmos.memory.store import Item
from llmos.syscalls.types import Message

NUM_CALLS = 8
LARGE = 3  # the call whose result is kept apart
SHARED_BODY = b"the same for all " * 2000
SPACES = ("chat", "notes")
Reader = Callable[[Database], Awaitable[object]]


def row(pid: int, seq: int) -> JournalRow:
    """A call that has begun."""
    return JournalRow(
        pid=pid,
        strand="0",
        seq=seq,
        name="tool",
        effect="once",
        digest=bytes([pid % 256, seq % 256]) * 8,
        state="INTENT",
        result=None,
        error=None,
        label="user",
        code_hash="1.0.0",
        started_at=1000.0 * pid + seq,
        ended_at=None,
    )


def body(pid: int, seq: int) -> bytes:
    """What a call came to; LARGE ones are too large for a row, and some are alike."""
    if seq % NUM_CALLS == LARGE:
        return SHARED_BODY if pid % 2 else b"%d/%d " % (pid, seq) * MAX_ROW_BODY_BYTES
    return b"result %d of process %d " % (seq, pid) * 12


def add_process(connection: Connection) -> int:
    """A process with calls, one of them under way, output, a context and notes; its pid."""
    pid = processes.create_row(
        connection,
        app="example",
        spec=b"\x00spec of a process\xff" * 9,
        tenant="local",
        model="echo",
        state="READY",
        parent=None,
        created_at=1.5,
    )
    add_calls(connection, pid, 0)
    insert_row(connection, row(pid, NUM_CALLS))
    contexts.create(connection, pid, (Message("system", f"Be brief, {pid}."),))
    return pid


def add_calls(connection: Connection, pid: int, first_seq: int) -> None:
    """NUM_CALLS calls of a process that have ended, with what they wrote."""
    for seq in range(first_seq, first_seq + NUM_CALLS):
        insert_row(connection, row(pid, seq))
        if seq % NUM_CALLS == 6:
            finish_row(connection, pid, "0", seq, "FAILED", None, b"an error", seq + 0.5)
        else:
            finish_row(connection, pid, "0", seq, "DONE", body(pid, seq), None, seq + 0.5)
        append_output(connection, pid, f"{pid} writes line {seq}, häppily 👩‍👩‍👧\n" * 3)
    mail.post(connection, pid, 9, 2.5, f"message {first_seq} to {pid}")
    for space in SPACES:
        text = f"note {first_seq} of process {pid} in {space}, about cats"
        item = Item("t", space, text, recorded_at=2.0, kind="turn", session=str(pid))
        store.remember(connection, item)


def go_on(connection: Connection, pid: int, first_seq: int) -> None:
    """More of the same, and another state."""
    add_calls(connection, pid, first_seq)
    contexts.append(connection, pid, 1, (Message("user", f"Go on from {first_seq}."),))
    processes.change(connection, pid, completion_tokens=first_seq, model=f"echo {first_seq}")


async def make_example(path: Path, num_processes: int = 3) -> None:
    """Write a store of that many processes, numbered from 1, each with a context."""
    db = Database.open(path)
    for _ in range(num_processes):
        await db.write(add_process)
    await db.aclose()


def readers(num_processes: int, num_calls: int = NUM_CALLS) -> dict[str, Reader]:
    """By name, everything that there is to read, whole things by each way that leads to them."""
    found: dict[str, Reader] = {"listing": processes.list}
    for pid in range(1, num_processes + 1):
        found |= readers_of(pid, num_calls)
    for space in SPACES:
        found[f"notes {space}"] = partial(_read_notes, space=space)
    return found


def readers_of(pid: int, num_calls: int = NUM_CALLS) -> dict[str, Reader]:
    """What is one process's."""
    return {
        f"record {pid}": partial(processes.get, pid=pid),
        f"journal {pid}": partial(load, pid=pid),
        f"calls {pid}": partial(_read_calls, pid=pid),
        f"call {pid}/{LARGE}": partial(find, pid=pid, strand="0", seq=LARGE),
        f"call {pid}/{num_calls - 1}": partial(find, pid=pid, strand="0", seq=num_calls - 1),
        f"output {pid}": partial(read_output, pid=pid),
        f"pieces {pid}": partial(_read_pieces, pid=pid),
        f"context {pid}": partial(_read_context, pid=pid),
        f"mail {pid}": partial(mail.find_oldest, pid=pid),
    }


async def read_all(db: Database, num_processes: int = 3) -> dict[str, object]:
    """Everything. Raises the first error."""
    return {name: await read(db) for name, read in readers(num_processes).items()}


def edit(path: Path, *statements: str) -> None:
    """Change a store behind llmos's back."""
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


async def _read_calls(db: Database, pid: int) -> list[JournalRow]:
    return [row async for rows in read_calls(db, pid) for row in rows]


async def _read_pieces(db: Database, pid: int) -> str:
    return "".join([text async for text in read_pieces(db, pid)])


async def _read_context(db: Database, pid: int) -> tuple[Message, ...]:
    return await db.read(lambda connection: contexts.read(connection, pid, 1))


async def _read_notes(db: Database, space: str) -> frozenset[object]:
    notes = await recall(db, "t", [space], "cats", 1000, 5.0)
    return frozenset(msgspec.structs.replace(note, score=0.0) for note in notes)
