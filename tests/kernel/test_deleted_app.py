"""An app whose folder goes away while it runs: what needs the folder fails by name, and alone."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from llmos.kernel.config import Config
from llmos.kernel.machine import Machine
from llmos.kernel.main import boot
from llmos.kernel.process import Process
from llmos.kernel.protocol import Output
from llmos.kernel.terminal import Terminal
from llmos.syscalls.errors import E_ARG
from llmos.syscalls.process import ProcessExit

from .conftest import MakeApp, start

pytestmark = pytest.mark.anyio
UP = """
await sys_.print("up")
await sys_.sleep({seconds})
{then}
"""


@pytest.fixture
async def machine(config: Config) -> AsyncIterator[Machine]:
    async with boot(config) as machine:
        yield machine


async def start_up(machine: Machine, app: str, workspace: Path) -> Process:
    """Start an app; it is up when this returns."""
    process = await start(machine, app, workspace)
    with anyio.fail_after(20):
        while not isinstance(await process.terminal.next_event(), Output):
            pass
    return process


async def wait_exit(process: Process) -> ProcessExit:
    with anyio.fail_after(20):
        await process.ended.wait()
    assert process.exit is not None
    return process.exit


async def test_an_app_without_its_folder_goes_on(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    app = make_app("worker", UP.format(seconds=0.3, then='return await sys_.print("done") or "ok"'))
    process = await start_up(machine, app, tmp_path)

    shutil.rmtree(tmp_path / "worker")

    assert ((ended := await wait_exit(process)).status, ended.result) == ("exited", "ok")


async def test_what_it_can_no_longer_import_ends_it_by_name(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    app = make_app("worker", UP.format(seconds=0.3, then="import later"))
    (tmp_path / "worker" / "later.py").write_text("")
    process = await start_up(machine, app, tmp_path)

    shutil.rmtree(tmp_path / "worker")

    assert "No module named 'later'" in (await wait_exit(process)).error


@pytest.mark.parametrize("gone", ["worker", "."])
async def test_a_child_of_an_app_that_is_gone_is_refused_by_name(
    machine: Machine, make_app: MakeApp, tmp_path: Path, gone: str
) -> None:
    workspace = tmp_path / "workspace"
    app = make_app("workspace", "").replace("workspace", "worker")
    shutil.copytree(workspace, workspace / "worker")
    code = workspace / "worker" / "code.py"
    body = UP.format(seconds=0.3, then='await sys_.wait(await sys_.spawn("./worker"))')
    code.write_text(code.read_text() + "".join(f"    {line}\n" for line in body.splitlines()))
    process = await start_up(machine, app, workspace)

    shutil.rmtree(workspace / gone)

    assert (await wait_exit(process)).error.startswith("E_ARG: ")


async def test_a_process_whose_app_is_gone_cannot_be_resumed_and_says_why(
    config: Config, make_app: MakeApp, tmp_path: Path
) -> None:
    app = make_app("worker", UP.format(seconds=1000, then=""))
    async with boot(config) as machine:
        pid = (await start_up(machine, app, tmp_path)).pid
    shutil.rmtree(tmp_path / "worker")

    async with boot(config) as machine:
        with pytest.raises(E_ARG, match=r"no app\.toml in .*worker"):
            await machine.launcher.resume(pid, Terminal())
        other = await start_up(machine, make_app("other", UP.format(seconds=0, then="")), tmp_path)
        assert (await wait_exit(other)).status == "exited"


async def test_an_app_can_still_be_killed(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    process = await start_up(
        machine, make_app("worker", UP.format(seconds=1000, then="")), tmp_path
    )
    shutil.rmtree(tmp_path / "worker")

    machine.launcher.signal(process, "KILL")

    assert (await wait_exit(process)).status == "killed"
