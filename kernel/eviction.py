"""Eviction: a process that has done nothing but wait for a while gives up its OS process.

All its calls in flight must be durable waits, the same ones for `evict_after_seconds` and more for
a journal that takes long to replay. Its OS process must not have run meanwhile: an app that
computes beside a wait is left alone. Then the app is asked whether it has timers of its own, such
as a timeout around a call. To take the OS process is what a crash does, so the journal brings the
process back; nothing in its code knows.
"""

from typing import NamedTuple

import msgspec
from anyio import to_thread

from llmos.memory.waits import Wait, find_started
from llmos.syscalls.ipc import Ask, Receive
from llmos.syscalls.process import Wait as WaitCall
from llmos.syscalls.table import TABLE
from llmos.syscalls.values import Sleep
from llmos.syscalls.wire import Request

from .machine import Machine
from .process import Process

LOOKS_PER_THRESHOLD = 4
WAIT_SECONDS_PER_CALL = 0.05  # a hundred times what the replay of a call takes
_decoders = {
    row.name: msgspec.msgpack.Decoder(row.request) for row in TABLE.values() if row.effect == "wait"
}


class Activity(NamedTuple):
    """What an OS process has run so far. Any difference means that it ran."""

    cpu_seconds: float
    num_switches: int


class Idle(NamedTuple):
    """Since when a process has done nothing but these calls."""

    calls: frozenset[tuple[str, int]]
    activity: Activity | None
    since: float


class Evictor:
    """Looks after the processes that wait. `run` does the work."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._idle: dict[int, Idle] = {}

    async def run(self) -> None:
        """Evict whoever has waited long enough, until cancelled."""
        seconds = self._machine.config.evict_after_seconds
        while seconds:
            await self._machine.clock.sleep(seconds / LOOKS_PER_THRESHOLD)
            await self.look()

    async def look(self) -> None:
        """Look at every process once."""
        waiting = [process for process in self._machine.table if is_waiting(process)]
        pids = {process.pid for process in waiting}
        self._idle = {pid: idle for pid, idle in self._idle.items() if pid in pids}
        for process in waiting:
            await self._look_at(process)

    async def _look_at(self, process: Process) -> None:
        seconds = self._machine.config.evict_after_seconds
        seconds += WAIT_SECONDS_PER_CALL * process.num_journal_rows
        now = self._machine.clock.monotonic()
        found = Idle(frozenset(process.in_flight), self._measure(process), now)
        idle = self._idle.get(process.pid, found)
        if idle[:2] != found[:2] or found.activity is None:
            idle = found
        self._idle[process.pid] = idle
        if now - idle.since < seconds or self._machine.degraded.reason is not None:
            return
        self._idle[process.pid] = found  # should it stay, it is not looked into at every turn
        waits = await plan_waits(self._machine, process, seconds)
        has_children = await to_thread.run_sync(has_os_children, self._os_pid(process))
        if not waits or has_children or self._measure(process) != idle.activity:
            return
        is_idle = await self._machine.launcher.ask_idle(process)
        if is_idle and is_waiting(process) and frozenset(process.in_flight) == idle.calls:
            self._machine.launcher.evict(process, waits)

    def _os_pid(self, process: Process) -> int | None:
        return self._machine.launcher.os_pid(process.pid)

    def _measure(self, process: Process) -> Activity | None:
        return measure_activity(self._os_pid(process))


def is_waiting(process: Process) -> bool:
    """Whether a process has nothing under way but durable waits."""
    if process.state != "READY" or process.killed_by is not None or process.has_left:
        return False
    calls = process.in_flight.values()
    return bool(calls) and all(call.request.name in _decoders for call in calls)


async def plan_waits(machine: Machine, process: Process, min_seconds: float) -> tuple[Wait, ...]:
    """What a process would sleep for; nothing if one of it is over sooner than `min_seconds`."""
    started = await find_started(machine.db, process.pid)
    if not is_waiting(process):  # any more
        return ()
    now = machine.clock.now()
    waits = [
        plan_wait(process.pid, call.request, now, started[key])
        for key, call in process.in_flight.items()
        if key in started
    ]
    is_short = any(wait.due_at is not None and wait.due_at - now < min_seconds for wait in waits)
    return () if is_short or len(waits) < len(process.in_flight) else tuple(waits)


def plan_wait(pid: int, request: Request, now: float, started_at: float) -> Wait:
    """The row of one wait that began at `started_at`, which is after `now` on a clock set back."""
    began_at = min(started_at, now)
    match _decoders[request.name].decode(request.args):
        case Sleep(seconds):
            return Wait(pid, request.strand, request.seq, "timer", began_at + seconds)
        case WaitCall(child):
            return Wait(pid, request.strand, request.seq, "child", None, child)
        case Receive(timeout_seconds):
            due_at = None if timeout_seconds is None else began_at + timeout_seconds
            return Wait(pid, request.strand, request.seq, "message", due_at, pid)
        case Ask():
            return Wait(pid, request.strand, request.seq, "person")
    raise TypeError(f"{request.name} is no durable wait")


def measure_activity(os_pid: int | None) -> Activity | None:
    """What this OS process has run; None if it is gone."""
    import psutil  # 15 ms that no start should pay

    if os_pid is None:
        return None
    try:
        one = psutil.Process(os_pid)
        with one.oneshot():
            times, switches = one.cpu_times(), one.num_ctx_switches()
    except psutil.Error:
        return None
    num_switches = switches.voluntary + switches.involuntary
    return Activity(times.user + times.system, num_switches)


def has_os_children(os_pid: int | None) -> bool:
    """Whether an OS process has started others, which would die with it. Reads all of /proc."""
    import psutil

    try:
        return os_pid is not None and bool(psutil.Process(os_pid).children())
    except psutil.Error:
        return False
