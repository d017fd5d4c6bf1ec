"""Offline replay: an app runs again, and nothing answers it but its journal.

Its calls go the way of all calls, on a machine whose journal is a tape: no model, no tool, no
effect, nothing written. Of a process that had ended the app must make the same calls and end the
same way. The journal of one that had not (it lives, sleeps, was killed or left behind) may end
under it: a call that had no answer then has none now, and with the last row the replay is over.
"""

from collections.abc import Sequence
from copy import copy

import anyio
import msgspec

from llmos.memory.journal import CHECKPOINT_STRAND, JournalRow
from llmos.memory.processes import ProcessRecord
from llmos.syscalls.errors import E_NONDETERMINISM, ErrorReply
from llmos.syscalls.process import ProcessExit
from llmos.syscalls.table import TABLE
from llmos.syscalls.tasks import running
from llmos.syscalls.wire import ByteStream, Exit, Failure, Request

from .dispatch import dispatch
from .gates.app import serve_app
from .handlers import Send
from .history import summarize
from .journal import digest_call
from .machine import Machine
from .process import Process
from .protocol import Divergence, ReplayReport
from .replay import count_tokens
from .tape import Key, Tape, Turns

TICK_SECONDS = 0.05
HOLD_TICKS = 4  # an app that is silent for so long does not wait for its answers in order
STALL_TICKS = 100  # and one that is, and waits for an answer, makes no other call


class OfflineReplay:
    """One replay of an ended, evicted or running process, whose control block is a copy.

    `serve` runs it, `report` says what came of it.
    """

    def __init__(
        self, machine: Machine, process: Process, record: ProcessRecord, rows: Sequence[JournalRow]
    ) -> None:
        self._tape = Tape(machine.journal)
        self._machine = copy(machine)
        self._machine.journal = self._tape
        self._process = process
        self._record = record
        calls = [row for row in rows if row.strand != CHECKPOINT_STRAND]
        self._rows = {(row.strand, row.seq): row for row in calls}
        self._numbers = {(row.strand, row.seq): n for n, row in enumerate(rows, start=1)}
        self._left = dict.fromkeys(self._rows)  # what has not come again
        self._turns = Turns(calls)
        self._num_calls = 0
        self._unknown: dict[Key, tuple[Request, str]] = {}  # calls that were not made then
        self._scope = anyio.CancelScope()
        self._divergence: Divergence | None = None
        self.is_unfinished = record.exit_status in (None, "killed")
        process.begin_again(rows, count_tokens(rows), 0)

    async def serve(self, stream: ByteStream, token: str) -> Exit | None:
        """Answer an app's calls until it ends, or until nothing more can be learned from it."""
        async with running() as tasks:
            tasks.start_soon(self._watch)
            with self._scope:
                return await serve_app(self._machine, self._process, stream, token, self._answer)
        return None

    # -- calls

    async def _answer(
        self, machine: Machine, process: Process, request: Request, again: bool, send: Send
    ) -> None:
        """Answer a call as the dispatcher does, when its turn has come; or leave it unanswered."""
        key = request.strand, request.seq
        self._num_calls += 1
        self._turns.come(key)

        async def deliver(value: object) -> None:
            if key not in process.in_flight:  # a patch that gave its number to the next call
                await send(value)
                return
            if isinstance(value, Failure) and value.error.code == E_NONDETERMINISM.code:
                await self._refuse(request, value.error)
            async with self._turns.turn(key):
                await send(value)
            self._check_off(key)

        await dispatch(machine, process, request, again, deliver)

    async def _refuse(self, request: Request, error: ErrorReply) -> None:
        """Never returns: the call is another one, or was never answered then, or not made.

        A branch that another one is about to end may make one call more than then, so that a call
        that was not made counts when the app waits for it and does nothing else.
        """
        key = request.strand, request.seq
        row = self._rows.get(key)
        if key not in self._tape.refused:
            self._diverge(row, request, error.message)
        elif row is None and not self.is_unfinished:
            self._unknown[key] = (request, error.message)
        else:
            self._check_off(key)
        await anyio.sleep_forever()

    def _check_off(self, key: Key) -> None:
        self._left.pop(key, None)
        if self.is_unfinished and not self._left:
            self._scope.cancel()

    async def _watch(self) -> None:
        """See when the app is silent: then it waits for an answer, or will make no other call.

        Moments are counted, not time: on a busy machine this task may have slept for long.
        """
        num_silent = num_calls = 0
        while True:
            await self._machine.clock.sleep(TICK_SECONDS)
            num_silent = num_silent + 1 if self._num_calls == num_calls else 0
            num_calls = self._num_calls
            num_ticks = num_silent - int(self._patience_seconds() / TICK_SECONDS)
            if num_ticks >= HOLD_TICKS and self._turns.let_one_out():
                num_silent = 0
            elif num_ticks >= HOLD_TICKS and (unknown := self._find_awaited()):
                self._diverge(None, *unknown)
            elif num_ticks >= STALL_TICKS and self._process.in_flight:
                self._diverge_early("the app waits, and did not then")

    def _find_awaited(self) -> tuple[Request, str] | None:
        """A call that was not made then and that the app has not given up since."""
        calls = self._process.in_flight
        awaited = (key for key in self._unknown if not calls[key].scope.cancel_called)
        return next((self._unknown[key] for key in awaited), None)

    def _patience_seconds(self) -> float:
        """How long the app took then to give up a call that it now waits for."""
        waiting = (self._rows.get(key) for key in self._process.in_flight)
        given_up = [row for row in waiting if row is not None and row.state == "CANCELLED"]
        return max(((row.ended_at or 0.0) - row.started_at for row in given_up), default=0.0)

    # -- verdict

    @property
    def is_over(self) -> bool:
        """Whether the replay ended before the app did."""
        return self._scope.cancel_called

    def _diverge(self, row: JournalRow | None, request: Request | None, why: str) -> None:
        """The first difference ends the replay."""
        if self._divergence is not None:
            return
        step = row or request
        self._divergence = Divergence(
            None if step is None else f"{step.strand}:{step.seq}",
            None if row is None else self._numbers[row.strand, row.seq],
            None if row is None else row.name,
            None if row is None else row.digest.hex(),
            None if request is None else request.name,
            None if request is None else _digest(request),
            None if request is None else summarize(bytes(request.args)),
            why,
        )
        self._scope.cancel()

    def _diverge_early(self, why: str) -> None:
        """The app makes no more calls; the journal may have one more."""
        row = next((self._rows[key] for key in self._left), None)
        self._diverge(row, None, why)

    def report(self, ended: ProcessExit) -> ReplayReport:
        """What came of it, when `serve` has returned and the app has ended so."""
        if not self.is_over:
            self._compare_end(ended)
        rows = self._rows.values()
        return ReplayReport(
            self._process.pid,
            len(rows),
            len(rows) - len(self._left),
            self.is_unfinished,
            any(row.code_hash != self._process.code_hash for row in rows),
            self._divergence,
        )

    def _compare_end(self, ended: ProcessExit) -> None:
        """The app ended by itself: all calls must have come, and the end must be the same.

        A branch that another one ended may lack its last call, which it gave up.
        """
        for key in [key for key in self._left if self._rows[key].state == "CANCELLED"]:
            del self._left[key]
        if self._left:
            self._diverge_early("the app ended before it made this call")
        elif not self.is_unfinished:
            then = _describe_end(self._record.exit_code, self._record.result or "")
            now = _describe_end(ended.code, ended.error or ended.result)
            if then != now:
                self._diverge(None, None, f"it ended with {then}, and now with {now}")


def _digest(request: Request) -> str:
    """The digest that a row of this request would have."""
    return digest_call(msgspec.msgpack.decode(request.args, type=TABLE[request.name].request)).hex()


def _describe_end(code: int | None, text: str) -> str:
    """An end for a sentence; where a crash's log is counts for nothing."""
    shown = text.partition(" (log: ")[0] if text.startswith("E_APP: the app crashed") else text
    return f"exit code {code} and {shown!r}"
