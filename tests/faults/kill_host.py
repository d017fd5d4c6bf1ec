"""One life of a kernel in the suite R1: it brings players back, starts others, and kills some.

It runs in an OS process of its own, which is killed from outside at any moment.
"""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from random import Random

import anyio
import msgspec

from llmos.kernel.config import Config, load_config
from llmos.kernel.launch import Launcher
from llmos.kernel.machine import Machine
from llmos.kernel.main import boot
from llmos.kernel.tools.builtin import BUILTIN_TOOLS
from llmos.kernel.tools.registry import Registry
from llmos.kernel.tools.tool import Tool, ToolContext, tool
from llmos.memory import processes
from llmos.memory.db import Database
from llmos.memory.journal import drop_rows
from tests.faults.crowd import Crowd
from tests.faults.evidence import ACK_BYTES, ALL, Evidence, append, count_bytes

NUM_LIVE = 6
NUM_CALLS = 30
POLL_SECONDS = 0.02
EVICT_AFTER_SECONDS = 0.1
POLLS_A_LOOK = 10
LOOK_SECONDS = 0.005
MAX_ANSWERS_A_KILL = 60
EXECUTOR_KILL_SECONDS = (0.2, 1.5)
ZYGOTE_SHARE = 0.01


class Life(msgspec.Struct, frozen=True):
    """A kernel's life on the state directory `folder`/home.

    The last one starts players of the demonstration model, kills their executor so many times, and
    ends when no process is left. A weak one finds no journal.
    """

    folder: str
    seed: int
    is_last: bool = False
    is_weak: bool = False
    num_executor_kills: int = 0


def make_mark(witness: Path) -> Tool:
    """The `once` tool: its effect is a line of the witness, some time after its call."""

    @tool("once")
    def mark(context: ToolContext, place: str, pause_ms: int) -> str:
        """Leave a mark."""
        time.sleep(pause_ms / 2000)
        append(witness, place.encode())
        time.sleep(pause_ms / 2000)
        return os.urandom(4).hex()

    return mark


def read_config(folder: Path) -> Config:
    """The configuration of the suite's kernels."""
    settings = {"LLMOS_MODEL": "echo", "LLMOS_EVICT_AFTER_SECONDS": str(EVICT_AFTER_SECONDS)}
    return load_config({"LLMOS_HOME": str(folder / "home"), **settings})


def run_life(life: Life, ready_fd: int) -> None:
    """Run a kernel until it is killed, or until the last process has ended."""
    config = read_config(Path(life.folder))
    if life.is_weak:
        anyio.run(forget_journals, config)
    anyio.run(live, life, config, ready_fd)


async def forget_journals(config: Config) -> None:
    """What the control's kernels find: journals that are sound and empty."""
    db = Database.open(config.database)
    pids = [record.pid for record in await processes.list(db, ALL)]
    await db.write(lambda connection: [drop_rows(connection, pid) for pid in pids])
    await db.aclose()


async def live(life: Life, config: Config, ready_fd: int) -> None:
    """The whole life; a byte to `ready_fd` says that the kernel is up."""
    folder = Path(life.folder)
    evidence = Evidence(folder)
    async with boot(config) as machine, anyio.create_task_group() as tasks:
        machine.tools = Registry((*BUILTIN_TOOLS, make_mark(evidence.witness)))
        machine.launcher.recover()
        os.write(ready_fd, b"!")
        crowd, killer = Crowd(machine, evidence, tasks, folder), Killer(machine, life)
        if not (life.is_last or life.is_weak):
            tasks.start_soon(killer.kill_apps)
        if life.num_executor_kills:
            tasks.start_soon(killer.kill_executors)
        await keep_busy(life, machine, crowd)
        tasks.cancel_scope.cancel()


async def keep_busy(life: Life, machine: Machine, crowd: Crowd) -> None:
    """Bring back what was left behind and start others; in the last life, until all is done."""
    num_started = 0
    max_started = 2 * NUM_LIVE * life.num_executor_kills if life.is_last else 1 << 30
    model = "demo" if life.is_last else "echo"
    while await crowd.bring_back() or len(machine.table) or num_started < max_started:
        for _ in range(POLLS_A_LOOK):
            while len(machine.table) < NUM_LIVE and num_started < max_started:
                num_started += 1
                name = f"{life.seed}-{num_started}"
                await crowd.start(name, life.seed, NUM_CALLS, model=model)
            await anyio.sleep(POLL_SECONDS)


class Killer:
    """Kills OS processes of a kernel and keeps count of it in a file."""

    def __init__(self, machine: Machine, life: Life) -> None:
        self._machine = machine
        self._life = life
        self._random = Random(life.seed)
        self._kills = Path(life.folder) / "kills"

    async def kill_apps(self) -> None:
        """Kill an app now and then, and seldom the zygote with all of them."""
        launcher = self._machine.launcher
        assert isinstance(launcher, Launcher)
        while True:
            await self._wait_answers(self._random.randrange(MAX_ANSWERS_A_KILL))
            if self._random.random() < ZYGOTE_SHARE:
                self._kill("zygote", launcher._zygote.os_pid)
                return  # they must not die as fast as they are started
            living = [pid for one in self._machine.table if (pid := launcher.os_pid(one.pid))]
            if living:
                self._kill("app", self._random.choice(living))

    async def kill_executors(self) -> None:
        """Kill the executor of the real model, each time when it has been up for a moment."""
        driver = self._machine.models.get("demo").driver
        for _ in range(self._life.num_executor_kills):
            while not driver.process_ids:  # noqa: ASYNC110
                await anyio.sleep(POLL_SECONDS)
            await anyio.sleep(self._random.uniform(*EXECUTOR_KILL_SECONDS))
            for os_pid in driver.process_ids:
                self._kill("executor", os_pid)

    async def _wait_answers(self, number: int) -> None:
        """Wait until players have had about so many answers more, however slow the machine is."""
        acks = Evidence(Path(self._life.folder)).acks
        enough_bytes = count_bytes(acks) + number * ACK_BYTES
        while count_bytes(acks) < enough_bytes:  # noqa: ASYNC110
            await anyio.sleep(LOOK_SECONDS)

    def _kill(self, what: str, os_pid: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(os_pid, signal.SIGKILL)
            append(self._kills, what.encode())
