"""Processes that do not live: one change at a time, and families share a terminal."""

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from llmos.kernel.machine import Machine
from llmos.kernel.main import boot
from llmos.kernel.terminal import Terminal
from llmos.syscalls.errors import E_ARG

from .conftest import MakeApp, prepare, record, start
from .sleeping import finish, load_sleepy, read_record, wait_asleep

pytestmark = pytest.mark.anyio


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    async with boot(load_sleepy(tmp_path)) as machine:
        yield machine


async def test_who_is_brought_back_by_many_lives_once(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    app = make_app("worker", "open('runs', 'a').write('main ')")
    pid = await record(machine, prepare(machine, app, tmp_path))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(machine.launcher.bring_back, pid)
    with anyio.fail_after(20):
        while (await read_record(machine, pid)).ended_at is None:
            pass

    assert (tmp_path / "runs").read_text() == "main "


async def test_what_is_ended_while_it_is_to_go_on_does_not(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    app = make_app("worker", "open('runs', 'a').write('main ')")
    pid = await record(machine, prepare(machine, app, tmp_path))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(machine.launcher.deliver, pid, "KILL")
        tasks.start_soon(machine.launcher.bring_back, pid)

    assert (await read_record(machine, pid)).exit_status == "killed"
    assert machine.table.get(pid) is None


async def test_a_signal_of_another_tenant_reaches_nobody(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    process = await start(machine, make_app("sleeper", "await sys_.sleep(1000)"), tmp_path)
    lives = await machine.launcher.deliver(process.pid, "KILL", tenant="other")
    await wait_asleep(machine, process.pid)
    sleeps = await machine.launcher.deliver(process.pid, "KILL", tenant="other")

    assert (lives, sleeps) == (False, False)
    assert await machine.launcher.deliver(process.pid, "KILL", tenant="local")
    assert (await finish(process))[0] == "killed"


async def test_a_child_that_wakes_is_at_the_terminal_of_its_family(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    child = make_app("child", "await sys_.sleep(0.8)\nawait sys_.print('from the child')")
    body = f"await sys_.wait(await sys_.spawn({child!r}))"
    parent = await start(machine, make_app("parent", body), tmp_path)
    await wait_asleep(machine, parent.pid, parent.pid + 1)

    await finish(parent)

    terminal = parent.terminal
    terminal.close()
    texts = [getattr(await terminal.next_event(), "text", None)]
    assert texts == ["from the child\n"]


async def test_who_comes_while_somebody_is_there_or_who_names_nobody_is_refused(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    process = await start(machine, make_app("sleeper", "await sys_.sleep(1000)"), tmp_path)

    with pytest.raises(E_ARG, match="has a person already"):
        await machine.launcher.attach(process.pid)
    with pytest.raises(E_ARG, match="is running"):
        await machine.launcher.resume(process.pid, Terminal())
    with pytest.raises(E_ARG, match="there is no process"):
        await machine.launcher.attach(process.pid + 1)
