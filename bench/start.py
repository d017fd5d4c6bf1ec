"""How fast the system starts and answers: kernel, first token, app process, syscalls.

Every figure stands beside a limit or a peer that is measured in the same run: a bare socketpair, a
bare SQLite commit, a bare `python -c pass`, the bare import of torch and transformers.
"""

import json
import os
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.output import make_parser

ROOT = Path(__file__).resolve().parents[1]
CLI = [sys.executable, "-m", "llmos.bin.cli"]
MS = 1000.0
CALLS_APP = """
import time
from llmos import app

def median(seconds):
    return sorted(seconds)[len(seconds) // 2]

@app
async def main(sys, num_calls: int):
    figures = {}
    calls = {"null": sys.getpid, "journaled": lambda: sys.print("x", end="")}
    for name, call in calls.items():
        seconds = []
        for _ in range(num_calls):
            begun = time.perf_counter()
            await call()
            seconds.append(time.perf_counter() - begun)
        figures[name] = median(seconds)
    return figures
"""
MANIFEST = """
[app]
name = "calls"
version = "1"
main = "calls:main"
"""
KERNEL = """
import os, sys, time
begun = time.perf_counter()
import anyio
from pathlib import Path
from llmos.kernel.config import load_config
from llmos.kernel.main import boot
from llmos.kernel.terminal import Terminal

async def main(workspace, num_spawns, num_calls):
    async with boot(load_config(os.environ)) as machine:
        ready = time.perf_counter() - begun
        spawns = []
        for _ in range(int(num_spawns)):
            process = await start(machine, workspace, "0")
            spawns.append(process[1])
        process, _ = await start(machine, workspace, num_calls)
        print(ready, "torch" in sys.modules, sorted(spawns)[len(spawns) // 2],
              process.exit.result, sep="\\n")

async def start(machine, workspace, num_calls):
    birth = machine.launcher.prepare(
        "./calls", (num_calls,), workspace=workspace, readable=(), model=None, parent=None)
    pid = await machine.db.write(lambda connection: machine.launcher.record(connection, birth))
    begun = time.perf_counter()
    process = machine.launcher.start(pid, birth, Terminal())
    await process.greeted.wait()
    seconds = time.perf_counter() - begun
    await process.ended.wait()
    return process, seconds

anyio.run(main, *sys.argv[1:])
"""


def measure(action: Callable[[], object], times: int) -> float:
    """Median seconds of an action."""
    seconds = []
    for _ in range(times):
        begun = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def environ(home: Path) -> dict[str, str]:
    """The environment of a kernel with a state directory of its own."""
    return os.environ | {"LLMOS_HOME": str(home), "PYTHONPATH": str(ROOT / "src")}


def measure_kernel(folder: Path, *, quick: bool) -> dict[str, float]:
    """Boot, spawn and syscalls, told by a kernel in a process of its own."""
    app = folder / "calls"
    app.mkdir()
    (app / "app.toml").write_text(MANIFEST)
    (app / "calls.py").write_text(CALLS_APP)
    numbers = ["11", "300"] if quick else ["51", "3000"]
    figures: list[dict[str, float]] = []
    for index in range(3):
        told = subprocess.run(
            [sys.executable, "-c", KERNEL, str(folder), *numbers],
            env=environ(folder / f"home{index}"),
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        calls = json.loads(told[3])
        figures.append(
            {
                "kernel_ready_seconds": float(told[0]),
                "kernel_imports_torch": float(told[1] == "True"),
                "spawn_ms": float(told[2]) * MS,
                "null_call_us": calls["null"] * MS * MS,
                "journaled_call_ms": calls["journaled"] * MS,
            }
        )
    return {name: statistics.median(run[name] for run in figures) for name in figures[0]}


def measure_socketpair(times: int) -> float:
    """Median seconds of a byte's way to another process and back: no call can be faster."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        while data := theirs.recv(64):
            theirs.send(data)
        os._exit(0)
    theirs.close()

    def bounce() -> None:
        ours.send(b"x" * 40)
        ours.recv(64)

    seconds = measure(bounce, times)
    ours.close()
    os.waitpid(child, 0)
    return seconds


def measure_commit(folder: Path, times: int) -> float:
    """Median seconds of a bare SQLite commit with WAL and synchronous=FULL."""
    connection = sqlite3.connect(folder / "bare.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE row(body)")
    seconds = measure(lambda: connection.execute("INSERT INTO row VALUES ('x')"), times)
    connection.close()
    return seconds


def first_token_seconds(home: Path) -> float:
    """Seconds from starting `llmos run ask` to the first character of the answer."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        [*CLI, "run", "ask", "hello"],
        env=environ(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert process.stdout.read(1), "no answer"
    seconds = time.perf_counter() - begun
    process.stdout.read()
    process.stdout.close()
    process.wait()
    return seconds


@contextmanager
def daemon(home: Path) -> Iterator[None]:
    """A running daemon whose model is loaded."""
    subprocess.run([*CLI, "start"], env=environ(home), check=True, stderr=subprocess.DEVNULL)
    try:
        first_token_seconds(home)
        yield
    finally:
        subprocess.run([*CLI, "stop"], env=environ(home), check=True, stderr=subprocess.DEVNULL)


def measure_first_token(folder: Path, *, quick: bool) -> dict[str, float]:
    """Cold, and from a running daemon."""
    times = 3 if quick else 7
    cold = statistics.median(first_token_seconds(folder / "cold") for _ in range(times))
    with daemon(folder / "warm"):
        warm = statistics.median(first_token_seconds(folder / "warm") for _ in range(times))
    bare = [sys.executable, "-c", "import torch, transformers.models.qwen3.modeling_qwen3"]
    imports = measure(lambda: subprocess.run(bare, check=True), times)
    python = measure(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True), times)
    return {
        "cold_first_token_seconds": cold,
        "bare_imports_seconds": imports,
        "warm_first_token_seconds": warm,
        "bare_python_seconds": python,
    }


ROWS = (
    ("kernel ready, s", "kernel_ready_seconds", 0.5, None),
    ("first token, cold run, s", "cold_first_token_seconds", 5.0, "bare_imports_seconds"),
    ("first token, running daemon, s", "warm_first_token_seconds", 0.3, "bare_python_seconds"),
    ("app process spawn, ms", "spawn_ms", 30.0, "bare_python_ms"),
    ("null syscall, µs", "null_call_us", 200.0, "bare_socketpair_us"),
    ("journaled syscall, ms", "journaled_call_ms", 2.0, "bare_commit_ms"),
)


def show(figures: dict[str, float]) -> None:
    """The table: each figure, its limit, and the bare thing it is compared with."""
    table = Table("what", "measured", "limit", "bare", "ratio", title="start")
    for label, name, limit, peer in ROWS:
        bare = figures[peer] if peer else None
        table.add_row(
            label,
            f"{figures[name]:.3g}",
            f"≤ {limit:g}",
            f"{bare:.3g}" if bare else "",
            f"{figures[name] / bare:.1f}" if bare else "",
        )
    Console().print(table)
    print("torch in the kernel's process:", "yes" if figures["kernel_imports_torch"] else "no")


def main(argv: list[str]) -> int:
    """Measure and print; exit code 0 whatever the figures are."""
    options = make_parser("start", "fewer rounds").parse_args(argv)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = measure_kernel(folder, quick=options.quick)
        figures |= measure_first_token(folder, quick=options.quick)
        figures["bare_python_ms"] = figures["bare_python_seconds"] * MS
        figures["bare_socketpair_us"] = measure_socketpair(1000) * MS * MS
        figures["bare_commit_ms"] = measure_commit(folder, 100 if options.quick else 500) * MS
    show(figures)
    if options.json:
        print(json.dumps({name: round(value, 4) for name, value in figures.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
