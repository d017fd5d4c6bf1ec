"""A kernel that is an OS process, and is killed: `python -m tests.faults.killed_host`.

It runs one app, whose branches generate side by side, from its start or from its journal to its
end, and prints what came of it. Its parent kills it when it has shown so many parts of text.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import anyio
import msgspec

from llmos.kernel.config import load_config
from llmos.kernel.machine import Machine
from llmos.kernel.main import boot
from llmos.kernel.process import Process
from llmos.kernel.protocol import Output
from llmos.kernel.terminal import Terminal
from llmos.memory.journal import load, read_output
from llmos.syscalls.generate import Generate
from tests.faults.token_calls import draw_call

ROOT = Path(__file__).resolve().parents[2]
NUM_CALLS = 8
MAX_DELAY_SECONDS = 0.05  # from the token at which it is to die
MANIFEST = """
[app]
name = "talker"
version = "1"
main = "talker:main"
[capabilities]
generate = { models = ["*"] }
tools = ["*"]
"""
APP = """
import msgspec
from llmos import app
from llmos.syscalls.generate import Generate

@app
async def main(sys):
    with open("calls.json", "rb") as file:
        calls = msgspec.json.decode(file.read(), type=list[Generate])

    async def ask(call):
        parts = []
        answer = await sys.call(call, parts.append)
        choices = [(one.text, one.tool_calls, one.finish_reason) for one in answer.choices]
        usage = answer.usage.prompt_tokens, answer.usage.completion_tokens
        return [answer.exact, "".join(parts), msgspec.to_builtins(choices), usage]

    return await sys.gather(*(ask(call) for call in calls))
"""


async def host(workspace: str, mode: str, num_parts: int) -> None:
    """Start the app or let it go on; prints "now" after so many parts, and the result."""
    async with boot(load_config(os.environ)) as machine:
        terminal = Terminal()
        num_done = 0
        if mode == "start":
            process = await _start(machine, workspace, terminal)
        else:
            num_done = sum(row.state == "DONE" for row in await load(machine.db, 1))
            process = await machine.launcher.resume(1, terminal)
        num_shown = await _watch(process, num_parts)
        result = {
            "result": process.exit.result if process.exit else "",
            "output": "".join(sorted(await read_output(machine.db, process.pid))),
            "num_shown": num_shown,
            "num_done": num_done,
        }
        print(json.dumps(result), flush=True)


async def _start(machine: Machine, workspace: str, terminal: Terminal) -> Process:
    launcher = machine.launcher
    birth = launcher.prepare(
        "./talker", (), workspace=workspace, readable=(), model=None, parent=None
    )
    pid = await machine.db.write(lambda connection: launcher.record(connection, birth))
    return launcher.start(pid, birth, terminal)


async def _watch(process: Process, num_parts: int) -> int:
    """How many parts of text were shown until the process ended."""
    num_shown = 0

    async def read() -> None:
        nonlocal num_shown
        while (event := await process.terminal.next_event()) is not None:
            num_shown += isinstance(event, Output)
            if num_shown == num_parts and isinstance(event, Output):
                print("now", flush=True)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await process.ended.wait()
        process.terminal.close()
    return num_shown


def kill_real_kernels(random: Random) -> dict[str, float]:
    """One app, undisturbed and with a kernel that is killed; what differs."""
    with tempfile.TemporaryDirectory() as scratch:
        workspace = Path(scratch)
        _write_app(workspace, [_draw_nameable(random) for _ in range(NUM_CALLS)])
        whole = _read(_open(workspace, "whole", "start", 0))
        num_parts = random.randint(1, max(1, int(whole["num_shown"] * 0.9)))
        _kill(_open(workspace, "cut", "start", num_parts), random.uniform(0, MAX_DELAY_SECONDS))
        after = _read(_open(workspace, "cut", "resume", 0))
    pairs = zip(json.loads(after["result"]), json.loads(whole["result"]), strict=True)
    counts: Counter[str] = Counter(num_runs=NUM_CALLS - after["num_done"])
    for answer, expected in pairs:
        counts["num_different"] += answer[1:] != expected[1:]
        counts["num_inexact"] += not answer[0]
    counts["num_wrong_outputs"] += after["output"] != whole["output"]
    return dict(counts)


def _draw_nameable(random: Random) -> Generate:
    """A call whose draws do not depend on the process."""
    call = draw_call(random)
    sampling = msgspec.structs.replace(
        call.sampling, logprobs=None, seed=random.randrange(1, 2**40)
    )
    return msgspec.structs.replace(call, sampling=sampling)


def _write_app(workspace: Path, calls: list[Generate]) -> None:
    folder = workspace / "talker"
    folder.mkdir()
    (folder / "app.toml").write_text(MANIFEST)
    (folder / "talker.py").write_text(APP)
    (workspace / "calls.json").write_bytes(msgspec.json.encode(calls))


def _open(workspace: Path, home: str, mode: str, num_parts: int) -> "subprocess.Popen[str]":
    environment = os.environ | {
        "LLMOS_HOME": str(workspace / home),
        "LLMOS_MODEL": "demo",
        "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT))),
    }
    arguments = [str(workspace), mode, str(num_parts)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.killed_host", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def _read(kernel: "subprocess.Popen[str]") -> dict[str, Any]:
    output, _ = kernel.communicate(timeout=300)
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def _kill(kernel: "subprocess.Popen[str]", delay_seconds: float) -> None:
    """Kill a kernel a moment after it has said that it is time."""
    assert kernel.stdout
    kernel.stdout.readline()
    time.sleep(delay_seconds)
    kernel.kill()
    kernel.communicate()


if __name__ == "__main__":
    anyio.run(host, sys.argv[1], sys.argv[2], int(sys.argv[3]))
