"""The zygote is killed: its processes go on in another one, and nothing is left of the old ones."""

import os
import select
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from llmos.kernel.config import Config
from llmos.kernel.launch import Launcher
from llmos.kernel.listing import list_processes
from llmos.kernel.machine import Machine
from llmos.kernel.main import boot
from llmos.kernel.process import Process
from llmos.kernel.protocol import Asked, Output, Refused, Run
from llmos.memory.journal import read_output
from llmos.syscalls.errors import E_KERNEL

from .conftest import MakeApp, prepare, record, start
from .test_control_gate import connect

pytestmark = pytest.mark.anyio
KILLER = "os.kill(os.getppid(), 9)\ntime.sleep(1000)"


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


async def hear(process: Process, kind: type[Output] | type[Asked]) -> None:
    """Wait for an event of this kind at the process's terminal."""
    with anyio.fail_after(20):
        while not isinstance(await process.terminal.next_event(), kind):
            pass


def kill_zygote(machine: Machine) -> None:
    assert isinstance(machine.launcher, Launcher)
    machine.launcher._zygote._os_process.kill()


async def test_a_process_goes_on_and_repeats_nothing(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    body = """
    number = await sys_.random()
    open("runs", "a").write("main ")
    await sys_.print("first")
    await sys_.sleep(0.5)
    await sys_.print("second")
    return number == await sys_.random()
    """
    process = await start(machine, make_app("worker", body), tmp_path)
    await hear(process, Output)

    kill_zygote(machine)

    assert await finish(process) == ("exited", "false")
    assert await read_output(machine.db, process.pid) == "first\nsecond\n"
    assert (tmp_path / "runs").read_text() == "main main "


async def test_nothing_is_left_of_an_app_that_hears_nothing(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    body = 'await sys_.print("up")\nif os.fork():\n    while True: pass\ntime.sleep(1000)'
    process = await start(machine, make_app("busy", body), tmp_path)
    await hear(process, Output)
    assert isinstance(machine.launcher, Launcher)
    app = os.pidfd_open(machine.launcher.os_pid(process.pid) or 0)

    kill_zygote(machine)

    assert select.select([app], [], [], 5)[0]
    os.close(app)
    machine.launcher.signal(process, "KILL")
    assert (await finish(process))[0] == "killed"


async def test_new_apps_start_again(machine: Machine, make_app: MakeApp, tmp_path: Path) -> None:
    app = make_app("quick", "return 'done'")
    for _ in range(2):
        kill_zygote(machine)

        assert await finish(await start(machine, app, tmp_path)) == ("exited", "done")


async def test_a_question_that_is_shown_is_not_asked_twice(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    process = await start(machine, make_app("asker", "return await sys_.ask('name? ')"), tmp_path)
    await hear(process, Asked)
    kill_zygote(machine)
    with anyio.fail_after(20):
        while process.info().state == "WAITING":  # noqa: ASYNC110 - nobody tells
            await anyio.sleep(0.01)

    process.terminal.answer(1, "Ada")

    assert await finish(process) == ("exited", "Ada")


async def test_parents_and_children_find_each_other_again(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    child = make_app("child", "await sys_.print('up')\nawait sys_.sleep(0.5)\nreturn 'child'")
    body = f"return (await sys_.wait(await sys_.spawn({child!r}))).result"
    parent = await start(machine, make_app("parent", body), tmp_path)
    await hear(parent, Output)

    kill_zygote(machine)

    assert await finish(parent) == ("exited", "child")
    assert len((await list_processes(machine, 10)).processes) == 2


async def test_a_stopped_process_stays_stopped(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    body = "await sys_.print('up')\nawait sys_.sleep(0.3)\nreturn 'done'"
    process = await start(machine, make_app("sleeper", body), tmp_path)
    await hear(process, Output)
    machine.launcher.signal(process, "STOP")
    kill_zygote(machine)
    await finish(await start(machine, make_app("other", "pass"), tmp_path))

    assert process.info().state == "STOPPED"
    machine.launcher.signal(process, "CONT")

    assert await finish(process) == ("exited", "done")


async def test_an_app_that_kills_every_zygote_is_left_and_its_terminal_is_told(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    killer, quick = make_app("killer", KILLER), make_app("quick", "return 'done'")
    async with connect(machine) as person:
        await person.send(Run(killer, (), str(tmp_path), model="echo"))
        refused = await person.hear(Refused)

    assert refused.error.code == "E_KERNEL"
    assert "times in a row; fix: llmos run --resume 1" in refused.error.message
    assert [info.state for info in (await list_processes(machine, 1)).processes] == ["EVICTED"]
    with pytest.raises(E_KERNEL, match="no app can be started"):
        await start(machine, quick, tmp_path)
    with anyio.fail_after(20):
        while not machine.launcher._zygote.is_up:  # type: ignore[attr-defined]  # noqa: ASYNC110
            await anyio.sleep(0.05)
    assert await finish(await start(machine, quick, tmp_path)) == ("exited", "done")


async def test_what_was_left_can_be_ended(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    from llmos.kernel.protocol import Kill, KillReply

    pid = await record(machine, prepare(machine, make_app("quick", "pass"), tmp_path))
    delivered = []
    for name in ("STOP", "TERM", "TERM"):
        async with connect(machine) as person:
            await person.send(Kill(pid, name))
            delivered.append((await person.hear(KillReply)).reply.delivered)

    (info,) = (await list_processes(machine, 1)).processes
    assert delivered == [True, True, False]
    assert (info.state, info.exit_status, info.exit_code) == ("ZOMBIE", "killed", 7)
