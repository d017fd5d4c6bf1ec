"""The journal: what is written of a call, before it, with it and after it.

INTENT rows say that a call began, DONE and FAILED rows how it ended. Rows are written in order by
the store's one writer, so a row that is durable proves every row before it durable.
"""

import hashlib
from collections.abc import Callable
from typing import Literal, TypeVar

import anyio
import msgspec

from llmos.memory.db import Connection, Database, Operation
from llmos.memory.journal import JournalRow, finish_row, insert_row
from llmos.syscalls.errors import E_BUSY, E_STORAGE, ErrorReply, SyscallError
from llmos.syscalls.table import Syscall
from llmos.syscalls.wire import encode

from .clock import Clock
from .limits import JournalLimits
from .process import Process

Ending = Literal["DONE", "FAILED", "IN_DOUBT", "CANCELLED"]
DIGEST_BYTES = 16
COME_AGAIN_SECONDS = 1.0
T = TypeVar("T")


def digest_call(call: msgspec.Struct) -> bytes:
    """BLAKE2b of a call in canonical msgpack: fields by name, in the order of the struct."""
    return hashlib.blake2b(encode(call), digest_size=DIGEST_BYTES).digest()


def ask_again(error: E_STORAGE) -> SyscallError:
    """What an app hears of a call without a row, which the store cannot take now.

    Its number must not be spent: a replay, for which the disk works, would make that call, and take
    those after it for others. So it is to come again under its number: the SDK does by itself.
    """
    if error.retry_after_seconds is None:
        return error
    return E_BUSY(error.message, retry_after_seconds=COME_AGAIN_SECONDS, field="seq")


class Entry:
    """One call's row while the call runs."""

    def __init__(
        self, journal: "Journal", process: Process, row: JournalRow, *, is_interrupted: bool
    ) -> None:
        self._journal = journal
        self._process = process
        self._row = row
        self._begun = is_interrupted
        self.is_interrupted = is_interrupted  # an earlier run began the call, and did not end it
        self._last: list[Operation] = []
        self.is_queued = False  # its ending waits to be written, and nobody for that

    @property
    def started_at(self) -> float:
        """When the call was first made, in Unix seconds."""
        return self._row.started_at

    @property
    def effect(self) -> str:
        """What was promised of the call when it was first made."""
        return self._row.effect

    async def begin(self, *, durable: bool) -> None:
        """Write the INTENT row; with `durable`, wait until a crash cannot lose it."""
        if self._begun:
            return
        row = self._row
        if durable:
            await self._write(lambda connection: insert_row(connection, row))
        else:
            self._journal.db.write_nowait(
                lambda connection: insert_row(connection, row), owner=row.pid
            )
        self._begun = True
        self._count(0, is_new=True)

    def at_end(self, operation: Operation) -> None:
        """Do this too in the transaction that writes the ending."""
        self._last.append(operation)

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
        for operation in self._last:
            operation(connection)

    def end(self, state: Ending, body: bytes) -> None:
        """Queue the ending; it is durable before anything that is written after it."""
        self.is_queued = True
        self._count(len(body), is_new=not self._begun)
        ended_at = self._journal.clock.now()  # its reply goes out before it is written
        self._journal.db.write_nowait(
            lambda connection: self.end_in(connection, state, body, ended_at),
            owner=self._row.pid,
        )

    def fail(self, error: ErrorReply, state: Ending = "FAILED") -> None:
        """Queue an error as the ending.

        A call that had not begun leaves no row if it was refused: a pure one, or any by a store
        that cannot write now.
        """
        may_pass = error.code == "E_STORAGE" and error.retry_after_seconds is not None
        refused = may_pass and self._journal.db.failure is not None
        if self._begun or not (refused or self._row.effect == "pure"):
            self.end(state, encode(error))

    def refuse(self, error: E_STORAGE) -> SyscallError:
        """What the app hears when the store fails: that the call did, if it has a row."""
        return error if self._begun or self.is_queued else ask_again(error)

    async def commit(self, effect: Callable[[Connection], bytes]) -> bytes:
        """Do the effect and write DONE with its result in one transaction; returns the result."""

        def transaction(connection: Connection) -> bytes:
            result = effect(connection)
            self.end_in(connection, "DONE", result, self._journal.clock.now())
            return result

        result = await self._write(transaction, keep=self._begun)
        self._count(len(result), is_new=not self._begun)
        return result

    def _count(self, body_bytes: int, *, is_new: bool) -> None:
        self._journal.limits.count(self._process, body_bytes, is_new=is_new)

    async def _write(self, operation: Callable[[Connection], T], *, keep: bool = False) -> T:
        """Write, and return when it is durable: a cancel must find a row that tells the truth."""
        with anyio.CancelScope(shield=True):
            result = await self._journal.db.write(operation, owner=self._row.pid, keep=keep)
        return result


class Journal:
    """Makes entries; the store keeps them."""

    def __init__(self, db: Database, clock: Clock, limits: JournalLimits | None = None) -> None:
        self.db = db
        self.clock = clock
        self.limits = limits or JournalLimits()

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
            return Entry(self, process, recorded, is_interrupted=True)
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
        return Entry(self, process, fresh, is_interrupted=False)
