"""A kernel and its sleeping processes, measured: the sleepers' part of `bin/bench durability`.

`main` runs in an OS process of its own. Sleepers are written as rows in bulk, as eviction would
have written them one by one; that eviction and wake leave such rows is tested elsewhere.
"""

import json
import os
import sys
import time
from itertools import pairwise
from pathlib import Path

import anyio
import msgspec
import psutil

from bench.durable_kernel import start, write_app
from llmos.kernel.config import Config, load_config
from llmos.kernel.journal import digest_call
from llmos.kernel.listing import decode_spec
from llmos.kernel.machine import Machine
from llmos.kernel.main import boot
from llmos.memory import processes, waits
from llmos.memory.db import Connection, Database
from llmos.memory.journal import JournalRow, insert_row, load
from llmos.memory.waits import Wait
from llmos.syscalls.values import Sleep

NUM_A_TRANSACTION = 2000
FAR_SECONDS = 30 * 86_400.0
STORM_SECONDS = 1.0
NUM_WAKES = 20
WAKE_APART_SECONDS = 0.4
SLEEPER = """
from llmos import app

@app
async def main(sys, seconds: float):
    await sys.sleep(seconds)
    return await sys.now()
"""


class Sleeping:
    """Writes processes that sleep: copies of one that was started."""

    def __init__(self, folder: Path, config: Config) -> None:
        self._folder = folder
        self._config = config

    async def write(self, num_processes: int, due_at: float, apart_seconds: float) -> None:
        """Let so many sleep until then, each so much longer than the one before."""
        now = time.time()
        spec = await self._make_spec()
        db = Database.open(self._config.database)
        for first in range(0, num_processes, NUM_A_TRANSACTION):
            dues = [
                due_at + index * apart_seconds
                for index in range(first, min(num_processes, first + NUM_A_TRANSACTION))
            ]

            def write_some(connection: Connection, dues: list[float] = dues) -> None:
                for due in dues:
                    self._write_one(connection, spec, now, due)

            await db.write(write_some)
        await db.aclose()

    async def _make_spec(self) -> processes.ProcessRecord:
        """The record of a process that a kernel started and ended."""
        async with boot(self._config) as machine:
            process = await start(machine, self._folder, "sleeper", "0")
            await process.ended.wait()
            record = await processes.get(machine.db, process.pid)
        assert record is not None
        return record

    def _write_one(
        self, connection: Connection, like: processes.ProcessRecord, now: float, due: float
    ) -> None:
        seconds = due - now
        spec = msgspec.structs.replace(decode_spec(like), argv=(repr(seconds),))
        pid = processes.create_row(
            connection,
            app=like.app,
            spec=msgspec.msgpack.encode(spec),
            tenant=like.tenant,
            model=like.model,
            state="NEW",
            parent=None,
            created_at=now,
        )
        digest = digest_call(Sleep(seconds))
        row = JournalRow(
            pid, "0", 0, "sleep", "wait", digest, "INTENT", None, None, "", "", now, None
        )
        insert_row(connection, row)
        waits.write_waits(connection, [Wait(pid, "0", 0, "timer", due)], now)


async def measure_boot(folder: Path, config: Config) -> tuple[float, float]:
    """Seconds until a kernel has run a first process, and its resident bytes then."""
    begun = time.monotonic()
    async with boot(config) as machine:
        machine.launcher.recover()
        process = await start(machine, folder, "sleeper", "0")
        await process.ended.wait()
        seconds = time.monotonic() - begun
        await anyio.sleep(1.0)
        return seconds, psutil.Process().memory_info().rss


async def measure_crowd(folder: Path, num_sleepers: int, num_in_storm: int) -> list[float]:
    """Boot and memory without and with sleepers, and a storm of timers.

    Numbers: boot seconds without and with, growth in bytes, seconds from the last timer's time to
    the last end, ends that were no success, pairs of neighbours that were woken out of order.
    """
    config = load_config(os.environ)
    sleeping = Sleeping(folder, config)
    await sleeping.write(1, time.time() + FAR_SECONDS, 0.0)
    empty_seconds, empty_bytes = await measure_boot(folder, config)
    await sleeping.write(num_sleepers, time.time() + FAR_SECONDS, 0.001)
    full_seconds, full_bytes = await measure_boot(folder, config)
    storm = await measure_storm(folder, config, num_in_storm)
    return [empty_seconds, full_seconds, full_bytes - empty_bytes, *storm]


async def measure_storm(folder: Path, config: Config, num_processes: int) -> list[float]:
    """Timers that are due within a second, and how their processes end."""
    due_at = time.time() + 10.0 + num_processes / 1000
    await Sleeping(folder, config).write(num_processes, due_at, STORM_SECONDS / num_processes)
    async with boot(config) as machine:
        machine.launcher.recover()
        await anyio.sleep(due_at + STORM_SECONDS - time.time())
        while True:
            records = (await processes.list(machine.db, num_processes + 1))[-num_processes:]
            if all(record.ended_at is not None for record in records):
                break
            await anyio.sleep(0.5)
        seconds = max(record.ended_at or 0.0 for record in records) - due_at - STORM_SECONDS
        num_failed = sum(record.exit_status != "exited" for record in records)
        woken = [(await load(machine.db, record.pid))[0].ended_at or 0.0 for record in records]
    num_swapped = sum(earlier > later + STORM_SECONDS for earlier, later in pairwise(woken))
    return [seconds, num_failed, num_swapped]


async def measure_wakes(folder: Path) -> list[float]:
    """Milliseconds from when a sleeper is due to its first new call: median and worst.

    Each was evicted before, which is checked.
    """
    config = load_config(os.environ | {"LLMOS_EVICT_AFTER_SECONDS": "0.5"})
    async with boot(config) as machine:
        machine.launcher.recover()
        pids = []
        for index in range(NUM_WAKES):
            process = await start(machine, folder, "sleeper", str(6.0 + index * WAKE_APART_SECONDS))
            pids.append(process.pid)
        await anyio.sleep(5.0)
        assert len(machine.table) == 0, "not all of them sleep"
        late = [await wait_woken(machine, pid) for pid in pids]
    return [sorted(late)[NUM_WAKES // 2], max(late)]


async def wait_woken(machine: Machine, pid: int) -> float:
    """Milliseconds by which a sleeper's call came after its time."""
    while len(rows := await load(machine.db, pid)) < 2:  # noqa: ASYNC110
        await anyio.sleep(0.2)
    sleep, now = rows
    record = await processes.get(machine.db, pid)
    assert record is not None
    due_at = sleep.started_at + float(decode_spec(record).argv[0])
    return 1000 * (now.started_at - due_at)


def main() -> None:
    """`crowd FOLDER NUM_SLEEPERS NUM_IN_STORM` or `wakes FOLDER`: prints a JSON list."""
    what, folder = sys.argv[1], Path(sys.argv[2])
    write_app(folder, "sleeper", SLEEPER)
    if what == "crowd":
        numbers = anyio.run(measure_crowd, folder, int(sys.argv[3]), int(sys.argv[4]))
    else:
        numbers = anyio.run(measure_wakes, folder)
    print(json.dumps(numbers))
