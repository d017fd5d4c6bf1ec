"""What processes that sleep cost, how soon one is awake, and a storm of timers.

Sleepers are written into the store as a kernel leaves them: record, INTENT row, wait. Each part
runs a kernel in a process of its own.
"""

import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import anyio
import msgspec
import psutil

from bench.output import make_parser, show
from llmos.kernel.capability import Capabilities
from llmos.kernel.config import load_config
from llmos.kernel.journal import digest_call
from llmos.kernel.machine import Machine
from llmos.kernel.main import boot
from llmos.kernel.process import TENANT, Process, ProcessSpec
from llmos.kernel.protocol import Asked, Output
from llmos.kernel.terminal import Terminal
from llmos.memory import processes, waits
from llmos.memory.db import Connection, Database
from llmos.memory.journal import JournalRow, insert_row
from llmos.memory.waits import Wait
from llmos.syscalls.values import Sleep

ROOT = Path(__file__).resolve().parents[1]
MS, MB = 1e3, 1e6
BATCH = 1000
Event = TypeVar("Event", Asked, Output)
SLEEP = Sleep(86_400.0)
STORM_SECONDS = 3.0
MANIFEST = '[app]\nname = "{name}"\nversion = "1"\nmain = "code:main"\n'
APPS = {
    "sleeper": f"    await sys.sleep({SLEEP.seconds})\n    return await sys.now()\n",
    "asker": '    while await sys.ask("?"):\n        await sys.print("awake")\n',
}
HEADER = "from llmos import app\n\n@app\nasync def main(sys):\n"


def write_apps(folder: Path) -> None:
    """The apps that sleep, in a workspace."""
    for name, body in APPS.items():
        (folder / name).mkdir()
        (folder / name / "app.toml").write_text(MANIFEST.format(name=name))
        (folder / name / "code.py").write_text(HEADER + body)


async def fill(db: Database, folder: Path, due: list[float]) -> None:
    """Write a sleeper for each time at which one is due, in Unix seconds."""
    app = str(folder / "sleeper")
    spec = ProcessSpec(app, (), str(folder), (), "echo", "salt", Capabilities())
    digest, body = digest_call(SLEEP), msgspec.msgpack.encode(spec)

    def write(connection: Connection, times: list[float]) -> None:
        for due_at in times:
            began_at = due_at - SLEEP.seconds
            pid = processes.create_row(
                connection,
                app="sleeper",
                spec=body,
                tenant=TENANT,
                model="echo",
                state=waits.AWAKE,
                parent=None,
                created_at=began_at,
            )
            row = JournalRow(
                pid, "0", 0, "sleep", "wait", digest, "INTENT", None, None, "", "", began_at, None
            )
            insert_row(connection, row)
            waits.write_waits(connection, [Wait(pid, "0", 0, "timer", due_at)], began_at)

    for start in range(0, len(due), BATCH):
        await db.write(functools.partial(write, times=due[start : start + BATCH]))


def read_rss() -> int:
    """Bytes of memory that this process holds."""
    return int(psutil.Process().memory_info().rss)


async def wait_ended(machine: Machine, number: int) -> None:
    """Wait until so many processes have ended."""
    query = "SELECT count(*) FROM process WHERE ended_at IS NOT NULL"
    while await machine.db.read(lambda c: c.exec_driver_sql(query).scalar_one()) < number:  # noqa: ASYNC110 - nobody tells
        await anyio.sleep(0.01)


async def measure_boot(folder: Path) -> dict[str, float]:
    """A kernel with the sleepers that the store has, of which the first is overdue."""
    begun, rss = time.perf_counter(), read_rss()
    async with boot(load_config(os.environ)) as machine:
        machine.launcher.recover()
        await wait_ended(machine, 1)
        seconds = time.perf_counter() - begun
        return {"boot_seconds": seconds, "rss_growth_mb": (read_rss() - rss) / MB}


async def measure_storm(folder: Path) -> dict[str, float]:
    """All sleepers are due within a second: who is brought back in which order, and how it ends."""
    async with boot(load_config(os.environ)) as machine:
        number = await machine.db.read(
            lambda c: c.exec_driver_sql("SELECT count(*) FROM process").scalar_one()
        )
        order: list[int] = []
        bring_back = machine.launcher.bring_back

        async def note(pid: int) -> None:
            order.append(pid)
            await bring_back(pid)

        machine.launcher.bring_back = note  # type: ignore[method-assign]
        machine.launcher.recover()
        begun = time.perf_counter()
        await wait_ended(machine, number)
        failed = "SELECT count(*) FROM process WHERE exit_status <> 'exited'"
        num_failed = await machine.db.read(lambda c: c.exec_driver_sql(failed).scalar_one())
    return {
        "storm_wake_ups": number,
        "storm_seconds": time.perf_counter() - begun,
        "storm_num_failed": num_failed,
        "storm_num_out_of_order": sum(a != b for a, b in zip(order, sorted(order), strict=True)),
    }


async def measure_wake(folder: Path, rounds: int = 40) -> dict[str, float]:
    """From an answer to the first new syscall of the process that slept, beside a first start."""
    async with boot(load_config(os.environ)) as machine:
        fresh = []
        for _ in range(rounds):
            begun = time.perf_counter()
            process = await _start(machine, folder)
            await _hear(process.terminal, Asked)
            fresh.append(time.perf_counter() - begun)
            await machine.launcher.deliver(process.pid, "KILL")
            await process.ended.wait()
        process = await _start(machine, folder)
        pid, terminal = process.pid, process.terminal
        seconds = []
        for _ in range(rounds):
            asked = await _hear(terminal, Asked)
            while machine.table.get(pid) is not None:
                await machine.table.wait_changed()
            begun = time.perf_counter()
            terminal.answer(asked.ask, "yes")
            await machine.launcher.wake_if_asleep(pid)
            await _hear(terminal, Output)
            seconds.append(time.perf_counter() - begun)
        await machine.launcher.deliver(pid, "KILL")
        await process.ended.wait()
    return {
        "wake_ms_p50": statistics.median(seconds) * MS,
        "wake_ms_p95": statistics.quantiles(seconds, n=20)[-1] * MS,
        "first_start_ms_p50": statistics.median(fresh) * MS,
    }


async def _start(machine: Machine, folder: Path) -> Process:
    """Start the app that asks, at a terminal of its own."""
    birth = machine.launcher.prepare(
        "./asker", (), workspace=str(folder), readable=(), model=None, parent=None
    )
    pid = await machine.db.write(lambda connection: machine.launcher.record(connection, birth))
    return machine.launcher.start(pid, birth, Terminal())


async def _hear(terminal: Terminal, kind: type[Event]) -> Event:
    """The next event of this kind."""
    while not isinstance(event := await terminal.next_event(), kind):
        pass
    return event


PARTS: dict[str, Callable[[Path], Coroutine[Any, Any, dict[str, float]]]] = {
    "boot": measure_boot,
    "storm": measure_storm,
    "wake": measure_wake,
}


def tell(part: str, folder: str) -> None:
    """Measure a part in this process and print it as JSON."""
    print(json.dumps(anyio.run(PARTS[part], Path(folder))))


def run_part(part: str, folder: Path, due: list[float]) -> dict[str, float]:
    """Measure a part in a process and a state directory of its own."""
    home = folder / part
    environ = os.environ | {
        "LLMOS_HOME": str(home),
        "LLMOS_MODEL": "echo",
        "LLMOS_EVICT_AFTER_SECONDS": "0.1",
        "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT))),
    }

    async def prepare() -> None:
        db = Database.open(load_config(environ).database)
        await fill(db, folder, due)
        await db.aclose()

    anyio.run(prepare)
    code = f"from bench.sleepers import tell; tell({part!r}, {str(folder)!r})"
    told = subprocess.run(
        [sys.executable, "-c", code], env=environ, check=True, stdout=subprocess.PIPE
    )
    found: dict[str, float] = json.loads(told.stdout)
    return found


def measure(folder: Path, *, num_sleepers: int, num_storm: int) -> dict[str, float]:
    """All parts. What a kernel without sleepers holds is taken off the growth of its memory."""
    write_apps(folder)
    now = time.time()
    asleep = [now - 1, *(now + SLEEP.seconds - 1 for _ in range(num_sleepers - 1))]
    boots = [run_part("boot", folder / name, due) for name, due in _homes(folder, now, asleep)]
    bare, full = boots
    storm = [now + num_storm / 100 + STORM_SECONDS + i / num_storm for i in range(num_storm)]
    return {
        "sleeping_processes": num_sleepers,
        "sleeping_boot_seconds": full["boot_seconds"],
        "sleeping_rss_growth_mb": full["rss_growth_mb"] - bare["rss_growth_mb"],
        **run_part("storm", folder, storm),
        **run_part("wake", folder, []),
    }


def _homes(folder: Path, now: float, asleep: list[float]) -> list[tuple[str, list[float]]]:
    for name in ("bare", "full"):
        (folder / name).mkdir()
        write_apps(folder / name)
    return [("bare", [now - 1]), ("full", asleep)]


def main(argv: list[str]) -> int:
    """Measure and print; exit code 0 whatever the figures are."""
    options = make_parser("sleepers", "fewer sleepers").parse_args(argv)
    num_sleepers, num_storm = (2_000, 50) if options.quick else (100_000, 1_000)
    with tempfile.TemporaryDirectory() as name:
        figures = measure(Path(name), num_sleepers=num_sleepers, num_storm=num_storm)
    show(figures, "sleepers", as_json=options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
