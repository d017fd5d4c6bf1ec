"""R5: a whole kernel and its apps in one event loop; a seed decides every turn and every fault.

What is simulated is in seeded_loop.py and simulated.py; all else is the kernel's own code, from the
launcher to the store's file. In a seed several kernels live one after the other on one state
directory: they crash between any two callbacks or at a COMMIT, the disk fails, models fail, apps
and zygotes are killed, processes are signalled, calls are given up, the wall clock is set. The last
kernel lives until all processes have ended, and the judge of evidence.py holds what was seen
against the store. A seed plays the same again, which `trace` proves. The control has two planted
bugs: a `once` tool that says it may run again, and a writer that acknowledges before it commits.
"""

import asyncio
import gc
import logging
import os
import tempfile
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import NamedTuple

import anyio

from llmos.kernel.config import load_config
from llmos.kernel.eviction import is_waiting, plan_waits
from llmos.kernel.launch import Launcher
from llmos.kernel.machine import Machine
from llmos.kernel.main import assemble
from llmos.kernel.tools.builtin import BUILTIN_TOOLS
from llmos.kernel.tools.registry import Registry
from llmos.kernel.tools.tool import Tool, ToolContext, tool
from llmos.memory.db import Database
from llmos.syscalls.tasks import running
from tests.faults.crowd import Crowd
from tests.faults.evidence import EXPECTED, Evidence, append, judge
from tests.faults.seeded_loop import Crash, SeededLoop, Stuck
from tests.faults.simulated import (
    Faults,
    FlakyDriver,
    SimulatedClock,
    SimulatedWriter,
    SimulatedZygote,
    open_simulated,
    threads_in_turn,
)
from tests.faults.suite import add_up, ignore, run_program

NUM_CALLS = 1000
NUM_PLAYERS = 8
MAX_LIVES = 4
MAX_TROUBLES = 6
TURNS_A_CALL = 12
PATIENCE_MS = 15
POLL_SECONDS = 0.5
AFTERMATH_SECONDS = 5.0
START = 1_800_000_000.0
MEMORY = Path("/dev/shm")
TROUBLES = (
    "evict",
    "evict",
    "app",
    "zygote",
    "TERM",
    "KILL",
    "clock",
    "disk",
    "disk",
    "model",
    "model",
)
SHOWN_COMPLAINTS = 5


class Played(NamedTuple):
    """What came of a seed."""

    counts: dict[str, float]
    complaints: list[str]
    trace: int


class World:
    """A seed's state directory and everybody around it."""

    def __init__(self, seed: int, num_calls: int, folder: Path, *, is_weak: bool) -> None:
        self._random = Random(seed)
        self._seed = seed
        self._num_calls = num_calls
        self._folder = folder
        self._is_weak = is_weak
        self._evidence = Evidence(folder)
        self._config = load_config({"LLMOS_HOME": str(folder / "home"), "LLMOS_MODEL": "echo"})
        self._wall_seconds = START
        self._db: Database | None = None
        self._trace = 0
        self._counts: Counter[str] = Counter(num_crashes=0, num_unanswered=0, num_left_tasks=0)
        self._complaints: list[str] = []

    def play(self) -> Played:
        """All lives, the last one to its end."""
        for number in range(self._random.randint(1, MAX_LIVES)):
            self._live(number, is_last=False)
        self._live(MAX_LIVES, is_last=True)
        return Played(dict(self._counts), self._complaints, self._trace)

    def _live(self, number: int, *, is_last: bool) -> None:
        """One kernel, from its boot to its crash or its end."""
        faults = Faults(self._random, commits_late=self._is_weak)
        loop = SeededLoop(self._random)
        if not is_last:
            self._plan_crash(loop, faults)
        try:
            loop.run_until_complete(self._run(loop, faults, number, is_last=is_last))
        except Crash:
            self._counts["num_crashes"] += 1
            self._bury(loop)
        except Stuck:
            self._counts["num_unended"] += 1
            self._complaints.append("num_unended: everything waits")
            self._bury(loop)
        finally:
            self._trace = zlib.crc32(f"{loop.trace}/{loop.num_turns}".encode(), self._trace)
            loop.close()

    def _plan_crash(self, loop: SeededLoop, faults: Faults) -> None:
        """At a turn, or at a COMMIT."""
        if self._random.random() < 0.5:
            loop.crash_at = self._random.randrange(100, TURNS_A_CALL * self._num_calls)
        else:
            num_commits = self._random.randrange(self._num_calls // 4)
            where = self._random.choice(("crash-before", "crash-after"))
            faults.commits = [*[""] * num_commits, where]

    def _bury(self, loop: SeededLoop) -> None:
        """Put away a kernel that is dead: it does nothing more, and what is not durable is gone."""
        assert self._db is not None
        writer = self._db._writer
        assert isinstance(writer, SimulatedWriter)
        writer.die()
        loop.revive()
        loop.set_exception_handler(lambda loop, context: None)
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        with suppress(Stuck):
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._db._readers.dispose()
        self._db._connection.close()

    async def _run(self, loop: SeededLoop, faults: Faults, number: int, *, is_last: bool) -> None:
        """A kernel as boot puts it together, but for what is simulated."""
        clock = SimulatedClock(loop, self._wall_seconds - loop.time())
        db = self._db = open_simulated(
            self._config.database,
            lambda connection, path: SimulatedWriter(connection, path, faults, loop),
        )
        machine = assemble(self._config, clock, db)
        machine.tools = Registry((*BUILTIN_TOOLS, self._make_mark()))
        machine.models.get("echo").driver = FlakyDriver(faults)
        zygote = SimulatedZygote()
        machine.launcher = launcher = Launcher(machine, zygote)
        async with running(machine.tasks):
            machine.tasks.start_soon(launcher.run_queue.run)
            machine.tasks.start_soon(machine.degraded.run)
            launcher.recover()
            async with anyio.create_task_group() as tasks:
                crowd = Crowd(machine, self._evidence, tasks, self._folder)
                for index in range(NUM_PLAYERS if number == 0 else 0):
                    await self._start(crowd, index)
                tasks.start_soon(self._trouble, machine, zygote, clock, faults)
                while await crowd.bring_back() or len(machine.table):  # noqa: ASYNC110
                    await anyio.sleep(POLL_SECONDS)
                tasks.cancel_scope.cancel()
        await machine.models.aclose()
        self._wall_seconds = clock.now()
        faults.commits.clear()
        if is_last:
            await self._judge(db, crowd, zygote)
        await db.aclose()
        await anyio.sleep(AFTERMATH_SECONDS)
        self._counts["num_left_tasks"] += len(asyncio.all_tasks()) - 1

    async def _start(self, crowd: Crowd, index: int) -> None:
        name, num_calls = f"{self._seed}-{index}", self._num_calls // NUM_PLAYERS
        await crowd.start(name, self._seed, num_calls, patience_ms=PATIENCE_MS)

    def _make_mark(self) -> Tool:
        """The `once` tool; the control's says that it may run again."""

        @tool("read" if self._is_weak else "once")
        def mark(context: ToolContext, place: str, pause_ms: int) -> str:
            """Leave a mark."""
            append(self._evidence.witness, place.encode())
            return os.urandom(4).hex()

        return mark

    async def _trouble(
        self, machine: Machine, zygote: SimulatedZygote, clock: SimulatedClock, faults: Faults
    ) -> None:
        """Things go wrong, some times."""
        for _ in range(self._random.randrange(MAX_TROUBLES)):
            await anyio.sleep(self._random.random() * 0.5)
            what = self._random.choice(TROUBLES)
            living = zygote.living()
            if what == "zygote":
                await zygote.die()
            elif what == "evict":
                await self._evict(machine)
            elif what == "app" and living:
                zygote.send_signal(self._random.choice(living), 9)
            elif what in ("TERM", "KILL") and len(machine.table):
                process = self._random.choice(list(machine.table))
                machine.launcher.signal(process, "TERM" if what == "TERM" else "KILL")
            elif what == "clock":
                clock.start += self._random.uniform(-3600.0, 3600.0)
            elif what == "disk":
                kinds = self._random.choices(("before", "after"), k=self._random.randint(1, 4))
                faults.commits[:0] = kinds
            else:
                faults.num_driver_errors += 1

    async def _evict(self, machine: Machine) -> None:
        """Take whoever does nothing but wait its OS process, as the evictor does at last."""
        for process in machine.table:
            if is_waiting(process):
                waits = await plan_waits(machine, process, 0.0)
                if waits and is_waiting(process):
                    machine.launcher.evict(process, waits)

    async def _judge(self, db: Database, crowd: Crowd, zygote: SimulatedZygote) -> None:
        await db.flush()
        counts, complaints = await judge(db, self._evidence, EXPECTED | {"E_MODEL"})
        add_up(self._counts, counts)
        self._complaints += complaints
        self._counts["num_unexpected"] += zygote.num_crashes
        for process in crowd.players:
            if process.exit is not None and process.exit.status == "exited":
                self._counts["num_unanswered"] += len(process.in_flight)


def play_seed(seed: int, num_calls: int = NUM_CALLS, *, is_weak: bool = False) -> Played:
    """One seed, on a state directory in memory.

    The collector of cycles rests meanwhile, as no seed decides when it finds something. What
    crashed kernels leave open is nothing to warn of.
    """
    place = MEMORY if MEMORY.is_dir() else None
    gc.disable()
    try:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory(dir=place) as folder:
            warnings.simplefilter("ignore", ResourceWarning)
            warnings.simplefilter("ignore", RuntimeWarning)  # a coroutine that was never begun
            world = World(seed, num_calls, Path(folder), is_weak=is_weak)
            with threads_in_turn(Faults(Random(seed))):
                played = world.play()
            del world
            gc.collect()
        return played
    finally:
        gc.enable()


def run(
    number: int,
    seed: int = 0,
    *,
    is_weak: bool = False,
    report: Callable[[str], None] = ignore,
    num_calls: int = NUM_CALLS,
) -> dict[str, float]:
    """Play `number` seeds from `seed` on, of `num_calls` calls each.

    Counts: `num_runs`, `num_calls`, and 0 each when all is well: those of evidence.judge, calls
    without an answer and tasks that are left at the end.
    """
    logging.getLogger("llmos").addHandler(logging.NullHandler())
    total: Counter[str] = Counter()
    for one in range(seed, seed + number):
        played = play_seed(one, num_calls, is_weak=is_weak)
        add_up(total, {"num_runs": 1, **played.counts})
        for complaint in [] if is_weak else played.complaints[:SHOWN_COMPLAINTS]:
            report(f"simulation, seed {one}: {complaint}")
        if total["num_runs"] % 100 == 0:
            report(f"simulation: {total['num_runs']} of {number}")
    return dict(total)


if __name__ == "__main__":
    run_program("simulation", run)
