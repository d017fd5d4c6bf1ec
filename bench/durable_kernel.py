"""A kernel whose processes make journaled calls, measured: the inside of `bin/bench durability`.

`main` runs in an OS process of its own, so that its memory and its start are a kernel's.
"""

import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

import anyio

from llmos.kernel.config import load_config
from llmos.kernel.machine import Machine
from llmos.kernel.main import boot
from llmos.kernel.process import Process
from llmos.kernel.protocol import Asked
from llmos.kernel.terminal import Terminal
from llmos.syscalls.errors import E_ARG

NUM_REPLAYED = 1000
SECONDS_A_START = 0.03
CALLER = """
import time
import anyio
from llmos import app

@app
async def main(sys, call: str, start_at: float, seconds: float):
    make = {"now": sys.now, "print": lambda: sys.print("x", end="")}[call]
    await anyio.sleep(max(0.0, start_at - time.time()))
    took, begun = [], time.perf_counter()
    while time.time() < start_at + seconds:
        await make()
        ended = time.perf_counter()
        took.append(1000 * (ended - begun))
        begun = ended
    took.sort()
    return [len(took), took[len(took) // 2], took[len(took) * 99 // 100]]
"""
REPLAYER = f"""
import time
from llmos import app

@app
async def main(sys, times: str):
    begun = time.time()
    calls = sys.now, sys.random, sys.uuid, lambda: sys.print("x", end="")
    for number in range({NUM_REPLAYED}):
        await calls[number % len(calls)]()
    with open(times, "a") as file:
        print(begun, time.time(), file=file)
    return await sys.ask("and now?")
"""
MANIFEST = """
[app]
name = "{name}"
version = "1"
main = "{name}:main"
"""


def write_app(folder: Path, name: str, code: str) -> None:
    """An app in a folder of its own below the workspace."""
    (folder / name).mkdir(exist_ok=True)
    (folder / name / "app.toml").write_text(MANIFEST.format(name=name))
    (folder / name / f"{name}.py").write_text(code)


async def start(machine: Machine, folder: Path, app: str, *argv: str) -> Process:
    """Start an app of the workspace."""
    launcher = machine.launcher
    birth = launcher.prepare(
        f"./{app}", argv, workspace=str(folder), readable=(), model=None, parent=None
    )
    pid = await machine.db.write(lambda connection: launcher.record(connection, birth))
    return launcher.start(pid, birth, Terminal())


async def measure_calls(folder: Path, call: str, num_processes: int, seconds: float) -> list[float]:
    """Calls a second that are durable, and the median and the 99th percentile in milliseconds.

    All processes begin at one moment. The time counts until the last call is on disk.
    """
    async with boot(load_config(os.environ)) as machine:
        start_at = time.time() + 0.5 + SECONDS_A_START * num_processes
        words = call, str(start_at), str(seconds)
        processes = [await start(machine, folder, "caller", *words) for _ in range(num_processes)]
        await anyio.sleep(start_at + seconds - time.time())
        await machine.db.flush()
        elapsed_seconds = time.time() - start_at
        told = []
        for process in processes:
            await process.ended.wait()
            assert process.exit is not None
            told.append(json.loads(process.exit.result))
    num_calls, medians, tails = zip(*told, strict=True)
    middle = num_processes // 2
    return [sum(num_calls) / elapsed_seconds, sorted(medians)[middle], sorted(tails)[middle]]


async def wait_asked(process: Process) -> None:
    """Wait until the person is asked."""
    while not isinstance(await process.terminal.next_event(), Asked):
        pass


async def measure_replay(folder: Path) -> list[float]:
    """Seconds until a process of 1,000 calls has gone on in another kernel, and of these in main.

    From when the kernel is up; start, import and all.
    """
    times = folder / "times"
    times.unlink(missing_ok=True)
    async with boot(load_config(os.environ)) as machine:
        await wait_asked(await start(machine, folder, "replayer", str(times)))
        (pid,) = (process.pid for process in machine.table)
    async with boot(load_config(os.environ)) as machine:
        begun = time.time()
        with suppress(E_ARG):  # it goes on by itself
            await machine.launcher.resume(pid, Terminal())
        while len(lines := times.read_text().splitlines()) < 2:  # noqa: ASYNC110
            await anyio.sleep(0.001)
        entered, done = map(float, lines[-1].split())
        for process in machine.table:
            machine.launcher.signal(process, "KILL")
            await process.ended.wait()
    return [done - begun, done - entered]


def main() -> None:
    """`calls FOLDER CALL NUM_PROCESSES SECONDS` or `replay FOLDER`: prints a JSON list."""
    what, folder = sys.argv[1], Path(sys.argv[2])
    write_app(folder, "caller", CALLER)
    write_app(folder, "replayer", REPLAYER)
    if what == "calls":
        call, num_processes, seconds = sys.argv[3], int(sys.argv[4]), float(sys.argv[5])
        print(json.dumps(anyio.run(measure_calls, folder, call, num_processes, seconds)))
    else:
        print(json.dumps(anyio.run(measure_replay, folder)))
