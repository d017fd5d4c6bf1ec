"""Degraded mode: what the kernel does while the disk does not take what has to be durable.

Processes pause: a call that would leave a row gets no reply yet, and generations hold between two
tokens. The store tries the disk again and again; when it works, everything goes on by itself.
* A call that had begun waits for as long as it takes: what is done is never thrown away, and its
  reply never comes before its row.
* A call that had not waits MAX_PAUSE_SECONDS of one failure at most, among so many others at most;
  then it is turned away, nothing of it done, no row: E_BUSY, upon which the SDK waits in its place
  and sends it again under its number. To hear E_STORAGE the app would have to spend that number,
  and a replay, which finds no row of it, would take every call behind it for another one.
* New processes are refused at once. Whatever needs no row works: signals, listings, replays, the
  null call. A process that is killed waits for nothing; its end is written when there is room.
So what is held grows no further than the calls that are under way, and nothing is lost.
"""

import logging

import anyio

from llmos.memory.db import Database
from llmos.syscalls.errors import E_STORAGE

from .clock import Clock
from .models import Models
from .process import Process, ProcessTable
from .protocol import Notice

FIRST_RETRY_SECONDS = 0.1
MAX_RETRY_SECONDS = 2.0
MAX_PAUSE_SECONDS = 600.0
MAX_PAUSED_CALLS = 4096
MAX_PAUSED_BYTES = 64 << 20
logger = logging.getLogger(__name__)


class DegradedMode:
    """Notices that the store fails and pauses processes until it works. `run` does the work."""

    def __init__(self, db: Database, clock: Clock, table: ProcessTable, models: Models) -> None:
        self._db = db
        self._clock = clock
        self._table = table
        self._models = models
        self._failure: E_STORAGE | None = None
        self._is_refusing = False
        self._changed = anyio.Event()
        self.num_paused_calls = 0
        self._num_paused_bytes = 0

    @property
    def reason(self) -> str | None:
        """Why the store cannot write; None while it can."""
        return self._failure.message if self._failure is not None else None

    def require_store(self) -> None:
        """E_STORAGE while the store cannot write: no new process begins what it cannot keep."""
        if self._failure is not None:
            raise self._refusal(self._failure)

    async def wait_admitted(self, process: Process, size_bytes: int) -> None:
        """Pause a call that has not begun; E_STORAGE when it must not wait (any longer).

        A cancel waits as well: only a call that has begun has a row to say so.
        """
        while self._failure is not None:
            if is_going(process):
                raise E_STORAGE(self._failure.message)  # for good: it need not come again
            if self._is_refusing or self._is_full():
                raise self._refusal(self._failure)
            self.num_paused_calls += 1
            self._num_paused_bytes += size_bytes
            try:
                with anyio.CancelScope(shield=True):
                    await self._changed.wait()
            finally:
                self.num_paused_calls -= 1
                self._num_paused_bytes -= size_bytes

    async def wait_durable(self, process: Process) -> None:
        """Hold back the reply of a call whose ending is queued, while the store cannot write."""
        if self._failure is not None:
            with anyio.CancelScope(shield=True):
                await self._db.flush(owner=process.pid, keep=True)

    async def run(self) -> None:
        """Pause and resume processes as the store fails and works, until cancelled."""
        with self._db.held():
            try:
                while True:
                    await self._db.wait_failure()
                    if self._db.failure is not None:
                        await self._last_out(self._db.failure)
            finally:  # nobody tries any more
                self._is_refusing = True
                self._wake()

    async def _last_out(self, failure: E_STORAGE) -> None:
        """One failure, from its beginning to its end."""
        self._begin(failure)
        since, delay_seconds = self._clock.monotonic(), FIRST_RETRY_SECONDS
        while self._db.failure is not None:
            self._let_go()
            await self._clock.sleep(delay_seconds)
            if not self._is_refusing and self._clock.monotonic() - since >= MAX_PAUSE_SECONDS:
                self._say(f"still, after {MAX_PAUSE_SECONDS:g} s: calls are refused")
                self._is_refusing = True
            if self._is_refusing:
                self._db.give_up()
            delay_seconds = min(2 * delay_seconds, MAX_RETRY_SECONDS)
            await self._db.retry()
        self._end()

    def _begin(self, failure: E_STORAGE) -> None:
        self._failure = failure
        self._is_refusing = failure.retry_after_seconds is None  # it will not pass
        what = "calls are refused" if self._is_refusing else "processes wait until it can"
        self._say(f"{failure.message}; {what}")
        for process in self._table:
            self._models.pause(process.pid)

    def _end(self) -> None:
        self._failure = None
        self._is_refusing = False
        self._wake()
        self._say("the store works again; processes go on")
        for process in self._table:
            if process.state != "STOPPED":
                self._models.resume(process.pid)

    def _let_go(self) -> None:
        """Nothing waits on behalf of a process that is going."""
        for process in self._table:
            if is_going(process):
                self._db.give_up_owned(process.pid)
        self._wake()

    def _is_full(self) -> bool:
        is_full = self.num_paused_calls >= MAX_PAUSED_CALLS
        return is_full or self._num_paused_bytes >= MAX_PAUSED_BYTES

    def _refusal(self, failure: E_STORAGE) -> E_STORAGE:
        return E_STORAGE(failure.message, retry_after_seconds=failure.retry_after_seconds)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def _say(self, text: str) -> None:
        """Once to the log, and once to every person."""
        logger.warning("%s", text)
        for terminal in {process.terminal for process in self._table}:
            terminal.emit(Notice(text))


def is_going(process: Process) -> bool:
    """Whether a process was killed, or has hung up with calls under way."""
    return process.killed_by is not None or (process.has_left and process.exit is None)
