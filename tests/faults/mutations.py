"""R7: programs are replayed as they were, without an alarm, and mutated, with the right one.

Each run makes a program from its seed, runs it once on the echo model, replays it clean and then
with a mutation that changes its calls. The replay must name a step at which the mutant leaves the
journal. Most runs have no OS process; every hundredth has.

`python -m tests.faults.mutations --number 1000` prints one line of JSON.
"""

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import anyio
import msgspec

from llmos.kernel.config import load_config
from llmos.kernel.gates.app import serve_app
from llmos.kernel.handlers import Send
from llmos.kernel.machine import Machine
from llmos.kernel.main import boot
from llmos.kernel.process import Process
from llmos.kernel.protocol import ReplayReport
from llmos.kernel.replay import recorded_result
from llmos.memory.journal import JournalRow, load
from llmos.syscalls.errors import SyscallError
from llmos.syscalls.wire import Failure, Reply, Request
from tests.kernel.conftest import TOKEN, start
from tests.kernel.replays import drive, replay, run_once

from .programs import Foresight, Program, make_program, mutate, save
from .programs import run as run_program

OS_PROCESS_EVERY = 100
REPORT_EVERY = 100
MAX_TRIES = 10
MANIFEST = """
[app]
name = "program"
version = "1"
main = "code:main"
[capabilities]
generate = { models = ["*"] }
memory = { read = ["notes"], write = ["notes"] }
tools = ["*"]
files = { read = ["."], write = ["."] }
"""
CODE = """
from llmos import app
from tests.faults.programs import load, run

@app
async def main(sys, path: str) -> str:
    return await run(sys, load(path))
"""


class Counts(msgspec.Struct):
    """What came of the runs. A mutant that makes the same calls counts as a clean replay."""

    num_runs: int = 0
    num_clean_replays: int = 0
    num_mutations: int = 0
    num_false_alarms: int = 0
    num_unnamed: int = 0  # no alarm, or one at another step


def run(
    number: int,
    seed: int = 0,
    *,
    is_weak: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, float]:
    """Play so many runs. `is_weak`: a kernel that answers by number and compares nothing."""
    counts = anyio.run(_run, number, seed, is_weak, report)
    return {name: float(value) for name, value in msgspec.structs.asdict(counts).items()}


async def _run(number: int, seed: int, is_weak: bool, report: Callable[[str], None]) -> Counts:
    counts = Counts()
    ram = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=ram) as name:
        folder = Path(name)
        config = load_config({"LLMOS_HOME": str(folder / "home"), "LLMOS_MODEL": "echo"})
        _write_app(folder)
        async with boot(config) as machine:
            for index in range(number):
                draw = random.Random(f"{seed}/{index}")
                await _play(machine, folder, draw, index, is_weak, counts)
                counts.num_runs += 1
                if counts.num_runs % REPORT_EVERY == 0:
                    report(f"{counts.num_runs} of {number} runs")
    return counts


def _write_app(folder: Path) -> None:
    app = folder / "program"
    app.mkdir()
    (app / "app.toml").write_text(MANIFEST)
    (app / "code.py").write_text(CODE)


async def _play(
    machine: Machine, folder: Path, draw: random.Random, index: int, is_weak: bool, counts: Counts
) -> None:
    """One program, recorded, replayed clean, and replayed as a mutant."""
    program = make_program(draw)
    stage: Stage = Weak(machine, folder) if is_weak else Stage(machine, folder)
    if index % OS_PROCESS_EVERY == OS_PROCESS_EVERY - 1 and not is_weak:
        stage = OsStage(machine, folder)
    process = await stage.record(program)
    rows = await load(machine.db, process.pid)
    for mutant in (program, _mutate(draw, program, rows)):
        steps = Foresight(rows).find_steps(mutant)
        divergence = (await stage.replay(process, mutant)).divergence
        named = None if divergence is None else divergence.step
        if steps:
            counts.num_mutations += 1
            counts.num_unnamed += named not in steps
        else:
            counts.num_clean_replays += 1
            counts.num_false_alarms += divergence is not None


def _mutate(draw: random.Random, program: Program, rows: Sequence[JournalRow]) -> Program:
    """A mutant that makes other calls, if one is found soon: to swap equals changes nothing."""
    for _ in range(MAX_TRIES):
        _, mutant = mutate(draw, program)
        if Foresight(rows).find_steps(mutant):
            break
    return mutant


class Stage:
    """Where programs run: here without an OS process."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self._machine = machine
        self._folder = folder

    async def record(self, program: Program) -> Process:
        """Run a program to its end, journaled."""
        return await run_once(
            self._machine, self._folder, lambda system: run_program(system, program)
        )

    async def replay(self, process: Process, program: Program) -> ReplayReport:
        """Replay a process with this program as its app."""
        return await replay(self._machine, process, lambda system: run_program(system, program))


class OsStage(Stage):
    """Programs run as apps of their own."""

    @property
    def _path(self) -> Path:
        return self._folder / "program.json"

    async def record(self, program: Program) -> Process:
        """Run a program to its end, journaled."""
        save(program, self._path)
        process = await start(self._machine, "./program", self._folder, str(self._path))
        await process.ended.wait()
        return process

    async def replay(self, process: Process, program: Program) -> ReplayReport:
        """Replay a process with this program as its app."""
        save(program, self._path)
        return await self._machine.launcher.replay(process.pid)


class Weak(Stage):
    """The control: calls are answered by their numbers, whatever they ask for."""

    async def replay(self, process: Process, program: Program) -> ReplayReport:
        """Replay a process without comparing anything."""
        rows = {(row.strand, row.seq): row for row in await load(self._machine.db, process.pid)}

        async def answer(
            machine: Machine, process: Process, request: Request, again: bool, send: Send
        ) -> None:
            key = request.strand, request.seq
            try:
                result = recorded_result(rows[key]) if key in rows else b"\xc0"
                await send(Reply(*key, msgspec.Raw(result or b"")))
            except SyscallError as error:
                await send(Failure(*key, error.reply()))
            del process.in_flight[key]

        copy = Process(process.pid, None, process.manifest, process.spec, 0.0)
        await drive(
            process.pid,
            lambda system: run_program(system, program),
            lambda stream: serve_app(self._machine, copy, stream, TOKEN, answer),
        )
        return ReplayReport(process.pid, len(rows), len(rows), False, False, None)


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--number", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weak", action="store_true")
    options = parser.parse_args()
    counts = run(options.number, options.seed, is_weak=options.weak, report=print_line)
    print(msgspec.json.encode(counts).decode())


def print_line(line: str) -> None:
    """Progress goes beside the result."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
