"""The run queue: processes that are to go on, in order, as many at a time as may live.

It is filled by whatever fires a wait, by the time, and at boot by what the last kernel left behind.
That a process is to go on is in the store; so what is lost here with the kernel is found again.
"""

import logging
from collections import deque
from collections.abc import Iterable

import anyio

from llmos.memory import waits
from llmos.syscalls.errors import E_STORAGE

from .machine import Machine

MAX_DUE_AT_ONCE = 64
MAX_STARTING = 8  # more at once would only be slower, each of them
MAX_NAP_SECONDS = 60.0  # the clock may be set forward, or the machine suspended
RETRY_SECONDS = 5.0
ROOM_SECONDS = 1.0
logger = logging.getLogger(__name__)


class RunQueue:
    """Wakes whoever is due and brings back who is to go on. `run` does the work."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._ready: deque[int] = deque()
        self._poked = anyio.Event()
        self._is_to_recover = False
        self._was_due = False  # a nap lasted until somebody should have been due

    def add(self, pids: Iterable[int]) -> None:
        """These are awake; one that is still falling asleep goes on at once."""
        for pid in pids:
            process = self._machine.table.get(pid)
            if process is None:
                self._ready.append(pid)
            else:
                process.is_wanted = True
        self.poke()

    def poke(self) -> None:
        """Look again who is due: somebody has fallen asleep."""
        self._poked.set()

    def recover(self) -> None:
        """Look for what the last kernel left behind."""
        self._is_to_recover = True
        self.poke()

    async def run(self) -> None:
        """Let processes go on, until cancelled. Until the first poke nobody is due."""
        await self._poked.wait()
        while True:
            self._poked = anyio.Event()
            try:
                await self._turn()
            except E_STORAGE as error:
                logger.warning("nobody is woken: %s", error)
                self._is_to_recover = True  # whoever was woken in a write that nobody heard of
                await self._machine.clock.sleep(RETRY_SECONDS)

    async def _turn(self) -> None:
        """Bring one process back, or wait until there is one."""
        if self._is_to_recover:
            await self._find_left()
        if not self._ready:
            await self._wake_due()
        if not self._ready and self._was_due:
            await self._begin_anew()
        self._was_due = False
        if self._ready:
            await self._wait_for_room()
            pid = self._ready[0]
            await self._machine.launcher.bring_back(pid)
            self._ready.popleft()
        else:
            await self._nap()

    async def _find_left(self) -> None:
        """Queue what is to go on and does not live; timers of a clock that was set back anew."""
        await self._begin_anew()
        self._is_to_recover = False
        queued = set(self._ready)
        self._ready.extend(
            pid
            for pid in await waits.find_unfinished(self._machine.db)
            if pid not in queued and self._machine.table.get(pid) is None
        )

    async def _begin_anew(self) -> None:
        db, now = self._machine.db, self._machine.clock.now
        await db.write(lambda connection: waits.begin_anew(connection, now()), keep=True)

    async def _wake_due(self) -> None:
        now, limit = self._machine.clock.now, MAX_DUE_AT_ONCE
        self._ready.extend(
            await self._machine.db.write(
                lambda connection: waits.wake_due(connection, now(), limit), keep=True
            )
        )

    async def _wait_for_room(self) -> None:
        """Wait until one process more may live, and few others are about to begin.

        Of what is given up unborn, or dies before it begins, nobody tells: hence the time.
        """
        table = self._machine.table
        while not self._machine.launcher.has_room:
            with anyio.move_on_after(ROOM_SECONDS):
                await table.wait_changed()
        while len(starting := [one for one in table if one.state == "NEW"]) >= MAX_STARTING:
            with anyio.move_on_after(ROOM_SECONDS):
                await starting[0].greeted.wait()

    async def _nap(self) -> None:
        """Sleep until somebody is due, or this is poked."""
        clock, due_at = self._machine.clock, await waits.next_due(self._machine.db)
        if due_at is None:
            await self._poked.wait()
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._cancel_when_poked, tasks.cancel_scope)
            await clock.sleep(min(due_at - clock.now(), MAX_NAP_SECONDS))
            tasks.cancel_scope.cancel()
        self._was_due = not self._poked.is_set()

    async def _cancel_when_poked(self, scope: anyio.CancelScope) -> None:
        await self._poked.wait()
        scope.cancel()
