"""Processes that begin anew as OS processes: each life is a fresh one, with what it was given."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from llmos.kernel.config import Config
from llmos.kernel.machine import Machine
from llmos.kernel.main import boot
from llmos.kernel.process import Process
from llmos.kernel.protocol import Logged
from llmos.kernel.terminal import Terminal
from llmos.memory.journal import load, read_output

from .conftest import MakeApp, start

pytestmark = pytest.mark.anyio


@pytest.fixture
async def machine(config: Config) -> AsyncIterator[Machine]:
    async with boot(config) as machine:
        yield machine


async def finish(process: Process) -> tuple[str, str]:
    """Wait for the end: status and result."""
    with anyio.fail_after(20):
        await process.ended.wait()
    assert process.exit is not None
    return process.exit.status, process.exit.result


async def test_every_life_has_its_arguments_and_an_os_process_of_its_own(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    body = """
    number = int(words[0])
    await sys_.print(number, len(globals().setdefault("LIVES", [])))
    LIVES.append(number)
    if number < 3:
        await sys_.checkpoint(str(number + 1))
    return f"ended in life {number}"
    """

    process = await start(machine, make_app("counter", body), tmp_path, "1")

    assert await finish(process) == ("exited", "ended in life 3")
    assert await read_output(machine.db, process.pid) == "1 0\n2 0\n3 0\n"
    assert [row.name for row in await load(machine.db, process.pid)] == ["checkpoint", "print"]
    assert process.spec.argv == ("3",)


async def test_main_unwinds_and_calls_in_it_are_refused(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    body = """
    if words:
        return open("cleaned").read()
    try:
        await sys_.checkpoint("again")
    finally:
        with anyio.CancelScope(shield=True):
            try:
                await sys_.print("never")
            except Exception as error:
                open("cleaned", "w").write(type(error).__name__)
    """

    process = await start(machine, make_app("tidy", body), tmp_path)

    assert await finish(process) == ("exited", "E_CANCELLED")
    assert await read_output(machine.db, process.pid) == ""


async def test_a_branch_may_ask_for_it_and_others_end(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    body = """
    if words:
        return "anew"
    async def idle():
        await anyio.sleep_forever()
    async def renew():
        await sys_.checkpoint("again")
    sys_.start(idle())
    await sys_.gather(idle(), renew())
    """

    process = await start(machine, make_app("branches", body), tmp_path)

    assert await finish(process) == ("exited", "anew")


async def test_an_app_that_does_not_go_is_cut_off_and_begins_anew(
    config: Config, make_app: MakeApp, tmp_path: Path
) -> None:
    body = """
    if words:
        return "anew"
    try:
        await sys_.checkpoint("again")
    finally:
        time.sleep(1000)
    """
    hasty = config.__class__(home=config.home, model="echo", kill_grace_seconds=0.2)
    async with boot(hasty) as machine:
        process = await start(machine, make_app("stuck", body), tmp_path)

        assert await finish(process) == ("exited", "anew")


async def test_a_process_that_is_killed_on_the_way_stays_dead(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    body = """
    try:
        await sys_.checkpoint("again")
    finally:
        print("leaving", flush=True)
        time.sleep(1000)
    """
    process = await start(machine, make_app("doomed", body), tmp_path)
    with anyio.fail_after(20):
        assert isinstance(await process.terminal.next_event(), Logged)
        machine.launcher.signal(process, "KILL")

    assert (await finish(process))[0] == "killed"
    assert process.spec.argv == ()


HOST = """
import os, sys, anyio
from llmos.kernel.config import load_config
from llmos.kernel.main import boot
from llmos.kernel.protocol import Output
from llmos.kernel.terminal import Terminal

async def main(workspace, num_outputs):
    async with boot(load_config(os.environ)) as machine:
        birth = machine.launcher.prepare(
            "./worker", (), workspace=workspace, readable=(), model=None, parent=None)
        pid = await machine.db.write(lambda c: machine.launcher.record(c, birth))
        terminal = machine.launcher.start(pid, birth, Terminal()).terminal
        for _ in range(int(num_outputs)):
            while not isinstance(await terminal.next_event(), Output):
                pass
        print(pid, flush=True)
        await anyio.sleep_forever()

anyio.run(main, *sys.argv[1:])
"""
LIVES = """
from llmos import app

@app
async def main(sys, number: int = 1):
    await sys.print(number)
    if number < 4:
        await sys.checkpoint(str(number + 1))
    return "done"
"""
MANIFEST = """
[app]
name = "worker"
version = "1"
main = "worker:main"
"""


def kill_kernel_after(num_outputs: int, config: Config, workspace: Path) -> int:
    """Run the worker in a kernel that is killed when it has written so often; its pid."""
    source = str(Path(__file__).parents[2] / "src")
    env = os.environ | {"LLMOS_HOME": str(config.home), "LLMOS_MODEL": "echo"}
    with subprocess.Popen(
        [sys.executable, "-c", HOST, str(workspace), str(num_outputs)],
        env=env | {"PYTHONPATH": source},
        stdout=subprocess.PIPE,
    ) as host:
        assert host.stdout is not None
        pid = int(host.stdout.readline())
        host.kill()
    return pid


@pytest.mark.parametrize("num_outputs", [1, 2, 3])
async def test_a_kernel_that_is_killed_around_a_checkpoint_loses_and_repeats_no_life(
    config: Config, tmp_path: Path, num_outputs: int
) -> None:
    (tmp_path / "worker").mkdir()
    (tmp_path / "worker" / "app.toml").write_text(MANIFEST)
    (tmp_path / "worker" / "worker.py").write_text(LIVES)

    pid = kill_kernel_after(num_outputs, config, tmp_path)

    async with boot(config) as machine:
        process = await machine.launcher.resume(pid, Terminal())
        assert await finish(process) == ("exited", "done")
        assert await read_output(machine.db, pid) == "1\n2\n3\n4\n"
