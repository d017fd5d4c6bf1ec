"""A kernel that is killed leaves processes that go on, without doing anything twice."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import msgspec
import pytest

from llmos.kernel.config import Config
from llmos.kernel.listing import list_processes
from llmos.kernel.main import boot
from llmos.kernel.terminal import Terminal
from llmos.memory.journal import drop_rows, load, read_output
from llmos.syscalls.errors import E_ARG

pytestmark = pytest.mark.anyio
HOST = """
import os, sys, anyio
from llmos.kernel.config import load_config
from llmos.kernel.main import boot
from llmos.kernel.protocol import Output
from llmos.kernel.terminal import Terminal

async def main(app, workspace):
    async with boot(load_config(os.environ)) as machine:
        birth = machine.launcher.prepare(
            app, (), workspace=workspace, readable=(), model=None, parent=None)
        pid = await machine.db.write(lambda c: machine.launcher.record(c, birth))
        process = machine.launcher.start(pid, birth, Terminal())
        while not isinstance(await process.terminal.next_event(), Output):
            pass
        print(pid, machine.launcher.os_pid(pid), flush=True)
        await anyio.sleep_forever()

anyio.run(main, *sys.argv[1:])
"""
APP = """
from llmos import app

@app
async def main(sys):
    number = await sys.random()
    await sys.generate("three words each")
    await sys.tool("write_file", path="draft.txt", content="draft")
    open("runs", "a").write("main ")
    await sys.print("first")
    await sys.sleep(0.2)
    await sys.print("second")
    return number
"""
MANIFEST = """
[app]
name = "worker"
version = "1"
main = "worker:main"
[capabilities]
generate = { models = ["*"] }
tools = ["write_file"]
files = { write = ["."] }
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path / "worker"
    folder.mkdir()
    (folder / "app.toml").write_text(MANIFEST)
    (folder / "worker.py").write_text(APP)
    return tmp_path


@contextmanager
def killed_kernel(config: Config, workspace: Path) -> Iterator[tuple[int, int]]:
    """Run the app until its first output, then kill the kernel. Yields pid and its OS pid."""
    source = str(Path(__file__).parents[2] / "src")
    env = os.environ | {
        "LLMOS_HOME": str(config.home),
        "LLMOS_MODEL": "echo",
        "PYTHONPATH": source,
    }
    host = subprocess.Popen(
        [sys.executable, "-c", HOST, "./worker", str(workspace)], env=env, stdout=subprocess.PIPE
    )
    assert host.stdout is not None
    pid, os_pid = map(int, host.stdout.readline().split())
    app = os.pidfd_open(os_pid)
    host.send_signal(signal.SIGKILL)
    host.wait()
    host.stdout.close()
    try:
        gone, _, _ = select.select([app], [], [], 20)
        assert gone, "the app outlived its kernel"
        yield pid, os_pid
    finally:
        os.close(app)


async def test_a_killed_process_goes_on_and_repeats_nothing(
    config: Config, workspace: Path
) -> None:
    with killed_kernel(config, workspace) as (pid, _):
        async with boot(config) as machine:
            (info,) = (await list_processes(machine, 10)).processes
            assert info.state == "EVICTED"

            process = await machine.launcher.resume(pid, Terminal())
            with anyio.fail_after(20):
                await process.ended.wait()

            rows = await load(machine.db, pid)
            output = await read_output(machine.db, pid)
    assert process.exit is not None
    assert process.exit.status == "exited"
    assert output == "first\nsecond\n"
    assert (workspace / "runs").read_text() == "main main "
    number = msgspec.msgpack.decode(rows[0].result or b"")["number"]
    assert process.exit.result == str(number)
    assert [(row.seq, row.name, row.state) for row in rows] == [
        (0, "random", "DONE"),
        (1, "generate", "DONE"),
        (2, "tool", "DONE"),
        (3, "print", "DONE"),
        (4, "sleep", "DONE"),
        (5, "print", "DONE"),
    ]
    assert process.completion_tokens == 3


async def test_without_its_journal_a_process_repeats_itself(
    config: Config, workspace: Path
) -> None:
    """The control: the check above sees what a kernel without a journal would do."""
    with killed_kernel(config, workspace) as (pid, _):
        async with boot(config) as machine:
            await machine.db.write(lambda c: drop_rows(c, pid))
            process = await machine.launcher.resume(pid, Terminal())
            with anyio.fail_after(20):
                await process.ended.wait()

            assert await read_output(machine.db, pid) == "first\nfirst\nsecond\n"


async def test_a_changed_app_is_told_that_its_replay_differs(
    config: Config, workspace: Path
) -> None:
    with killed_kernel(config, workspace) as (pid, _):
        code = workspace / "worker" / "worker.py"
        code.write_text(APP.replace("sys.random()", "sys.now()"))
        async with boot(config) as machine:
            process = await machine.launcher.resume(pid, Terminal())
            with anyio.fail_after(20):
                await process.ended.wait()
            await machine.db.flush()
            (info,) = (await list_processes(machine, 10)).processes
    assert process.error is not None
    assert process.error.code == "E_NONDETERMINISM"
    assert "0:0 was 'random'" in process.error.message
    assert (info.state, "0:0 was 'random'" in info.left_because) == ("EVICTED", True)


async def test_a_process_whose_app_differs_goes_on_when_the_app_is_mended(
    config: Config, workspace: Path
) -> None:
    code = workspace / "worker" / "worker.py"
    with killed_kernel(config, workspace) as (pid, _):
        async with boot(config) as machine:
            for text in (APP.replace("sys.random()", "sys.now()"), APP):
                code.write_text(text)
                process = await machine.launcher.resume(pid, Terminal())
                with anyio.fail_after(20):
                    await process.ended.wait()
            output = await read_output(machine.db, pid)
    assert process.exit is not None
    assert process.exit.status == "exited"
    assert output == "first\nsecond\n"


async def test_only_what_was_interrupted_can_be_resumed(config: Config, workspace: Path) -> None:
    with killed_kernel(config, workspace) as (pid, _):
        async with boot(config) as machine:
            process = await machine.launcher.resume(pid, Terminal())
            with pytest.raises(E_ARG, match="is running"):
                await machine.launcher.resume(pid, Terminal())
            await process.ended.wait()
            with pytest.raises(E_ARG, match="has ended"):
                await machine.launcher.resume(pid, Terminal())
            with pytest.raises(E_ARG, match="there is no process"):
                await machine.launcher.resume(pid + 100, Terminal())
