"""The journal: what is written of a call, before it, with it and after it.

INTENT rows say that a call began, DONE and FAILED rows how it ended. Rows are written in order by
the store's one writer, so a row that is durable proves every row before it durable.
"""

import hashlib
from collections.abc import Callable
from typing import Literal, TypeVar

import anyio
import msgspec

from llmos.memory.db import Connection, Database
from llmos.memory.journal import JournalRow, finish_row, insert_row
from llmos.syscalls.errors import ErrorReply
from llmos.syscalls.table import Syscall
from llmos.syscalls.wire import encode

from .clock import Clock
from .process import Process

Ending = Literal["DONE", "FAILED", "IN_DOUBT", "CANCELLED"]
DIGEST_BYTES = 16
T = TypeVar("T")


def digest_call(call: msgspec.Struct) -> bytes:
    """BLAKE2b of a call in canonical msgpack: fields by name, in the order of the struct."""
    return hashlib.blake2b(encode(call), digest_size=DIGEST_BYTES).digest()


class Entry:
    """One call's row while the call runs."""

    def __init__(self, journal: "Journal", row: JournalRow, begun: bool) -> None:
        self._journal = journal
        self._row = row
        self._begun = begun
        self.is_queued = False  # its ending waits to be written, and nobody for that

    @property
    def started_at(self) -> float:
        """When the call was first made, in Unix seconds."""
        return self._row.started_at

    async def begin(self, *, durable: bool) -> None:
        """Write the INTENT row; with `durable`, wait until a crash cannot lose it."""
        if self._begun:
            return
        self._begun = True
        row = self._row
        if durable:
            await self._write(lambda connection: insert_row(connection, row))
        else:
            self._journal.db.write_nowait(lambda connection: insert_row(connection, row))

    def end_in(self, connection: Connection, state: Ending, body: bytes, ended_at: float) -> None:
        """Write the ending inside a transaction of the caller's."""
        result, error = (body, None) if state == "DONE" else (None, body)
        row = self._row
        if self._begun:
            finish_row(connection, row.pid, row.strand, row.seq, state, result, error, ended_at)
        else:
            ended = msgspec.structs.replace(
                row, state=state, result=result, error=error, ended_at=ended_at
            )
            insert_row(connection, ended)

    def end(self, state: Ending, body: bytes) -> None:
        """Queue the ending; it is durable before anything that is written after it."""
        self.is_queued = True
        ended_at = self._journal.clock.now()  # its reply goes out before it is written
        self._journal.db.write_nowait(
            lambda connection: self.end_in(connection, state, body, ended_at)
        )

    def fail(self, error: ErrorReply, state: Ending = "FAILED") -> None:
        """Queue an error as the ending.

        A call that had not begun leaves no row if it was refused: a pure one, or any by the store.
        """
        refused = error.code == "E_STORAGE" and error.retry_after_seconds is not None
        if self._begun or not (refused or self._row.effect == "pure"):
            self.end(state, encode(error))

    async def commit(self, effect: Callable[[Connection], bytes]) -> bytes:
        """Do the effect and write DONE with its result in one transaction; returns the result."""

        def transaction(connection: Connection) -> bytes:
            result = effect(connection)
            self.end_in(connection, "DONE", result, self._journal.clock.now())
            return result

        return await self._write(transaction, keep=self._begun)

    async def _write(self, operation: Callable[[Connection], T], *, keep: bool = False) -> T:
        """Write, and return when it is durable: a cancel must find a row that tells the truth."""
        with anyio.CancelScope(shield=True):
            result = await self._journal.db.write(operation, owner=self._row.pid, keep=keep)
        return result


class Journal:
    """Makes entries; the store keeps them."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self.db = db
        self.clock = clock

    def entry(
        self,
        process: Process,
        strand: str,
        seq: int,
        row: Syscall,
        effect: str,
        digest: bytes,
        recorded: JournalRow | None = None,
    ) -> Entry:
        """The entry of a call that is about to run; `recorded` is its INTENT if it was begun."""
        if recorded is not None:
            return Entry(self, recorded, begun=True)
        fresh = JournalRow(
            pid=process.pid,
            strand=strand,
            seq=seq,
            name=row.name,
            effect=effect,
            digest=digest,
            state="INTENT",
            result=None,
            error=None,
            label="",
            code_hash=process.code_hash,
            started_at=self.clock.now(),
            ended_at=None,
        )
        return Entry(self, fresh, begun=False)
