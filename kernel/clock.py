"""Time as the kernel sees it: the system's clock, and a virtual one for tests and simulations."""

import heapq
import itertools
import time
from typing import Protocol

import anyio
from anyio.lowlevel import checkpoint

SETTLE_CHECKPOINTS = 20


class Clock(Protocol):
    """Where the kernel gets time from."""

    def now(self) -> float:
        """Unix seconds; may jump when the machine's clock is set."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait; a time of zero or less only lets others run."""
        ...


class SystemClock:
    """The machine's own time."""

    def now(self) -> float:
        """Unix seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait for a real time."""
        await anyio.sleep(max(0.0, seconds))


class VirtualClock:
    """Time that moves when it is told to, as trio's MockClock does.

    `start` is in Unix seconds. Either the test calls `advance`, or `autojump` runs beside the code
    under test. All use is from one event loop.
    """

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._start = start
        self._elapsed = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, anyio.Event]] = []
        self._slept = anyio.Event()

    def now(self) -> float:
        """Unix seconds of the virtual time."""
        return self._start + self._elapsed

    def monotonic(self) -> float:
        """Seconds since the clock was made."""
        return self._elapsed

    async def sleep(self, seconds: float) -> None:
        """Wait until the clock has been moved on by so much."""
        if seconds <= 0:
            await checkpoint()
            return
        sleeper = (self._elapsed + seconds, next(self._order), anyio.Event())
        heapq.heappush(self._sleepers, sleeper)
        self._slept.set()
        try:
            await sleeper[2].wait()
        finally:
            if sleeper in self._sleepers:  # cancelled
                self._sleepers.remove(sleeper)
                heapq.heapify(self._sleepers)

    def advance(self, seconds: float) -> None:
        """Move time on and wake whoever is due, in order of deadline; they run when you wait."""
        self._move_to(self._elapsed + seconds)

    def _move_to(self, elapsed: float) -> None:
        self._elapsed = max(self._elapsed, elapsed)
        while self._sleepers and self._sleepers[0][0] <= self._elapsed:
            heapq.heappop(self._sleepers)[2].set()

    async def autojump(self) -> None:
        """Whenever every task waits, go straight to the next deadline; runs until cancelled.

        Tasks that wait for a thread or a socket count as waiting.
        """
        while True:
            await self._wait_until_settled()
            if self._sleepers:
                self._move_to(self._sleepers[0][0])
            else:
                self._slept = anyio.Event()
                await self._slept.wait()

    async def _wait_until_settled(self) -> None:
        # wait_all_tasks_blocked sleeps for a real 0.1 s if it finds a task that could run, so give
        # them turns first.
        for _ in range(SETTLE_CHECKPOINTS):
            await checkpoint()
        await anyio.wait_all_tasks_blocked()
