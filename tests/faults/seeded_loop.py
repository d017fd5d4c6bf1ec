"""An event loop of which a seed decides everything: whose turn it is, and what time it is.

Among the tasks that could run, the seed picks one; what the loop itself has to do (sockets,
callbacks of futures) keeps its order, which asyncio relies on. Time is virtual: it stands while
anything can run, then jumps to the next timer; now and then it jumps although something could run,
as if the machine had been slow. Nothing ever waits. A loop in which nothing can run any more raises
Stuck.

The idea is FoundationDB's simulation (Zhou et al., SIGMOD 2021). Two runs of one seed are alike as
long as nothing asks the world outside; `trace` is a digest of every turn taken.
"""

import asyncio
import heapq
import zlib
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from random import Random
from typing import Any

SLOW_SHARE = 0.002
LOOK_SHARE = 0.02
MAX_SECONDS = 600.0  # no run takes that long


class Stuck(Exception):
    """Everything waits, and nothing will ever happen."""


class Crash(BaseException):
    """The process that the loop stands for was killed."""


class NumberedTask(asyncio.Task[Any]):
    """A task with a number in the order of creation, by which sets of tasks are ordered too."""

    number = 0

    def __hash__(self) -> int:
        return self.number


class SeededLoop(asyncio.SelectorEventLoop):
    """The loop. `crash_at` is the turn at whose end it raises Crash; None is never."""

    def __init__(self, random: Random, crash_at: int | None = None) -> None:
        self._elapsed = 0.0
        super().__init__()
        self._random = random
        self._steps: list[tuple[int, int, asyncio.Handle]] = []
        self._rest: deque[asyncio.Handle] = deque()
        self._num_tasks = 0
        self._num_steps = 0
        self._has_crashed = False
        self.crash_at = crash_at
        self.num_turns = 0
        self.trace = 0
        self.set_task_factory(self._make_task)  # type: ignore[arg-type]

    def time(self) -> float:
        """Virtual seconds."""
        return self._elapsed

    def crash(self) -> None:
        """Die here and now."""
        self._has_crashed = True
        raise Crash

    def revive(self) -> None:
        """Run again after a Crash, to put away what is left."""
        self.crash_at, self._has_crashed = None, False

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """There are no threads."""
        return self.call_soon(callback, *args, context=context)

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
    ) -> NumberedTask:
        task = NumberedTask.__new__(NumberedTask)
        self._num_tasks += 1
        task.number = self._num_tasks
        task.__init__(coroutine, loop=loop, **options)  # type: ignore[misc]
        return task

    def _run_once(self) -> None:
        """One turn of one callback."""
        self._sort_ready()
        if not self._rest and not self._steps:
            self._look_around()
        elif self._random.random() < SLOW_SHARE:
            self._jump()
        elif self._random.random() < LOOK_SHARE:
            self._process_events(self._selector.select(0))  # type: ignore[attr-defined]
        handle = self._rest.popleft() if self._is_turn_of_rest() else self._pick()
        if not handle.cancelled():
            handle._run()
        self.num_turns += 1
        if self.num_turns == self.crash_at:
            self._has_crashed = True
        if self._has_crashed:
            raise Crash

    def _sort_ready(self) -> None:
        """Tell steps of tasks from other callbacks."""
        ready: deque[asyncio.Handle] = self._ready  # type: ignore[attr-defined]
        while ready:
            handle = ready.popleft()
            task = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]
            if isinstance(task, NumberedTask):
                self._num_steps += 1
                self._steps.append((task.number, self._num_steps, handle))
            else:
                self._rest.append(handle)

    def _is_turn_of_rest(self) -> bool:
        """Some of the rest comes round again and again until a task has had its turn."""
        return bool(self._rest) and (not self._steps or self._random.random() < 0.7)

    def _pick(self) -> asyncio.Handle:
        index = 0
        if len(self._steps) > 1:
            self._steps.sort()
            index = self._random.randrange(len(self._steps))
        number, _, handle = self._steps.pop(index)
        self.trace = zlib.crc32(number.to_bytes(8, "big"), self.trace)
        return handle

    def _look_around(self) -> None:
        """Nothing can run: see what the sockets have, or what time it is next."""
        self._process_events(self._selector.select(0))  # type: ignore[attr-defined]
        self._sort_ready()
        if not self._rest and not self._steps and not self._jump():
            raise Stuck
        self._sort_ready()

    def _jump(self) -> bool:
        """Go to the next timer; whether there is one."""
        timers: list[asyncio.TimerHandle] = self._scheduled  # type: ignore[attr-defined]
        while timers and timers[0].cancelled():
            heapq.heappop(timers)
        if not timers or timers[0].when() > MAX_SECONDS:
            return False
        self._elapsed = max(self._elapsed, timers[0].when())
        while timers and timers[0].when() <= self._elapsed:
            self._ready.append(heapq.heappop(timers))  # type: ignore[attr-defined]
        return True
