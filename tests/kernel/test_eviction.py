"""A process that only waits gives up its OS process, and nothing in its code knows."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import msgspec
import pytest

from llmos.kernel.eviction import (
    Evictor,
    has_os_children,
    is_waiting,
    measure_activity,
    plan_wait,
    plan_waits,
)
from llmos.kernel.machine import Machine
from llmos.kernel.main import boot
from llmos.kernel.process import Process
from llmos.kernel.protocol import Asked, Ended, Input, Interrupt, Run, Started
from llmos.memory.journal import load, read_output
from llmos.memory.waits import Wait, find_waits
from llmos.syscalls.ipc import Ask, Receive
from llmos.syscalls.process import Wait as WaitCall
from llmos.syscalls.types import Message
from llmos.syscalls.values import Sleep
from llmos.syscalls.wire import Request, encode

from .conftest import Attach, MakeApp, start
from .sleeping import finish, load_sleepy, read_record, wait_asleep, wait_record_ended
from .test_control_gate import connect

pytestmark = pytest.mark.anyio
ONCE = "open('runs', 'a').write('main ')\n"
LONG = ONCE + "await sys_.sleep(1000)"


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    async with boot(load_sleepy(tmp_path)) as machine:
        yield machine


async def start_asleep(machine: Machine, app: str, workspace: Path) -> Process:
    process = await start(machine, app, workspace)
    await wait_asleep(machine, process.pid)
    return process


async def test_a_process_that_sleeps_goes_on_when_its_time_is_over(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    body = (
        ONCE
        + """
number = await sys_.random()
await sys_.print("first")
await sys_.sleep(0.8)
await sys_.print("second")
return number == await sys_.random()
"""
    )
    process = await start(machine, make_app("sleeper", body), tmp_path)
    await wait_asleep(machine, process.pid)
    assert machine.launcher.os_pid(process.pid) is None

    assert await finish(process) == ("exited", "false")

    assert (tmp_path / "runs").read_text() == "main main "
    assert await read_output(machine.db, process.pid) == "first\nsecond\n"
    rows = await load(machine.db, process.pid)
    assert {row.state for row in rows} == {"DONE"}
    assert len(rows) == 5


async def test_a_kernel_that_never_evicts_keeps_it(make_app: MakeApp, tmp_path: Path) -> None:
    """The control: the check above sees a process that kept its OS process."""
    async with boot(load_sleepy(tmp_path, 0)) as machine:
        app = make_app("sleeper", ONCE + "await sys_.sleep(0.8)")

        await finish(await start(machine, app, tmp_path))

    assert (tmp_path / "runs").read_text() == "main "


@pytest.mark.parametrize(
    "beside",
    ["for _ in range(40): await anyio.sleep(0.01)", "await anyio.run_process(['sleep', '0.5'])"],
    ids=["computes", "has a child"],
)
async def test_an_app_that_does_something_beside_its_wait_is_left_alone(
    machine: Machine, make_app: MakeApp, tmp_path: Path, beside: str
) -> None:
    body = (
        ONCE
        + f"""
async def work():
    {beside}
await sys_.gather(sys_.sleep(0.6), work())
"""
    )
    process = await start(machine, make_app("busy", body), tmp_path)

    assert (await finish(process))[0] == "exited"

    assert (tmp_path / "runs").read_text() == "main "


async def test_a_timeout_of_the_apps_own_comes_in_time(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    body = (
        ONCE
        + """
with anyio.move_on_after(0.8):
    await sys_.sleep(1000)
return "given up"
"""
    )
    process = await start(machine, make_app("impatient", body), tmp_path)

    assert await finish(process) == ("exited", "given up")

    assert (tmp_path / "runs").read_text() == "main "


async def test_who_falls_asleep_while_the_disk_has_paused_it_generates_when_awake(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    body = "for _ in range(2): await sys_.generate('one word'), await sys_.sleep(0.8)"
    process = await start(machine, make_app("paused", body), tmp_path)
    while not is_waiting(process):
        await anyio.lowlevel.checkpoint()
    machine.models.pause(process.pid)
    await wait_asleep(machine, process.pid)

    assert (await finish(process))[0] == "exited"


async def test_a_long_journal_is_replayed_for_a_long_wait_only(
    make_app: MakeApp, tmp_path: Path
) -> None:
    async with boot(load_sleepy(tmp_path)) as machine:
        body = ONCE + "for _ in range(100): await sys_.now()\nawait sys_.sleep(0.8)"

        await finish(await start(machine, make_app("long", body), tmp_path))

    assert (tmp_path / "runs").read_text() == "main "


async def test_a_short_rest_of_a_sleep_is_waited_for(attach: Attach, machine: Machine) -> None:
    system, process = await attach()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(system.sleep, 30.0)
        await anyio.wait_all_tasks_blocked()
        while not is_waiting(process):
            await anyio.lowlevel.checkpoint()

        long, short = [await plan_waits(machine, process, seconds) for seconds in (10, 60)]

        tasks.cancel_scope.cancel()
    assert ([wait.kind for wait in long], short) == (["timer"], ())


async def test_a_call_that_comes_while_waits_are_planned_keeps_its_process(
    attach: Attach, machine: Machine
) -> None:
    system, process = await attach()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(system.sleep, 1000.0)
        tasks.start_soon(system.generate, [Message("user", "!slow 100 a b c")])
        while len(process.in_flight) < 2:
            await anyio.lowlevel.checkpoint()
        await machine.db.flush()

        planned = await plan_waits(machine, process, 0.0)

        tasks.cancel_scope.cancel()
    assert planned == ()


@pytest.mark.parametrize(
    ("name", "call", "wait"),
    [
        ("sleep", Sleep(5.0), Wait(7, "0", 3, "timer", 105.0)),
        ("wait", WaitCall(9), Wait(7, "0", 3, "child", None, 9)),
        ("ask", Ask("?"), Wait(7, "0", 3, "person")),
        ("receive", Receive(), Wait(7, "0", 3, "message", None, 7)),
        ("receive", Receive(5.0), Wait(7, "0", 3, "message", 105.0, 7)),
    ],
)
def test_every_wait_is_a_row(name: str, call: msgspec.Struct, wait: Wait) -> None:
    request = Request("0", 3, name, msgspec.Raw(encode(call)))

    assert plan_wait(7, request, now=102.0, started_at=100.0) == wait


def test_a_wait_that_began_after_now_counts_from_now() -> None:
    request = Request("0", 3, "sleep", msgspec.Raw(encode(Sleep(5.0))))

    assert plan_wait(7, request, now=50.0, started_at=100.0).due_at == 55.0


async def test_only_durable_waits_count_as_waiting(attach: Attach) -> None:
    system, process = await attach()
    assert not is_waiting(process)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(system.sleep, 1000.0)
        await anyio.wait_all_tasks_blocked()
        waits = is_waiting(process)
        tasks.start_soon(system.generate, [Message("user", "!slow 100 a b c")])
        while len(process.in_flight) < 2:
            await anyio.lowlevel.checkpoint()
        computes = is_waiting(process)
        tasks.cancel_scope.cancel()

    assert (waits, computes) == (True, False)


def test_an_os_process_that_is_gone_shows_no_activity() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()

    assert measure_activity(None) is None
    assert measure_activity(gone.pid) is None
    assert measure_activity(os.getpid()) is not None


def test_what_an_os_process_has_started_is_seen() -> None:
    assert not has_os_children(None)
    with subprocess.Popen(["sleep", "60"]) as child:
        assert has_os_children(os.getpid())
        child.kill()


async def test_nobody_is_looked_at_who_does_not_wait(machine: Machine) -> None:
    await Evictor(machine).look()


async def test_a_parent_sleeps_until_its_child_has_ended(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    child = make_app("child", "await sys_.sleep(0.9)\nreturn 'from the child'")
    body = f"return (await sys_.wait(await sys_.spawn({child!r}))).result"
    parent = await start(machine, make_app("parent", body), tmp_path)
    await wait_asleep(machine, parent.pid, parent.pid + 1)

    assert await finish(parent) == ("exited", "from the child")


@pytest.mark.parametrize("name", ["TERM", "KILL"])
async def test_a_signal_ends_what_sleeps_and_its_children(
    machine: Machine, make_app: MakeApp, tmp_path: Path, name: str
) -> None:
    child = make_app("child", LONG)
    body = f"await sys_.wait(await sys_.spawn({child!r}))"
    parent = await start(machine, make_app("parent", body), tmp_path)
    await wait_asleep(machine, parent.pid, parent.pid + 1)

    assert await machine.launcher.deliver(parent.pid, name)  # type: ignore[arg-type]

    assert (await finish(parent))[0] == "killed"
    for pid in (parent.pid, parent.pid + 1):
        assert (await read_record(machine, pid)).exit_status == "killed"
    assert await find_waits(machine.db, [parent.pid, parent.pid + 1]) == {}
    assert not await machine.launcher.deliver(parent.pid, "TERM")


async def test_the_end_of_a_parent_ends_a_child_that_sleeps(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    child = make_app("child", LONG)
    body = f"await sys_.spawn({child!r})\nwhile True: await sys_.now()"
    parent = await start(machine, make_app("parent", body), tmp_path)
    await wait_asleep(machine, await _find_child(machine, parent.pid))

    machine.launcher.signal(parent, "KILL")

    assert (await wait_record_ended(machine, parent.pid + 1)).exit_status == "killed"


async def _find_child(machine: Machine, parent: int) -> int:
    with anyio.fail_after(20):
        while machine.table.get(parent + 1) is None:
            await anyio.lowlevel.checkpoint()
    return parent + 1


async def test_a_stopped_sleeper_is_held_until_it_is_continued(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    app = make_app("sleeper", "await sys_.sleep(0.6)\nreturn 'done'")
    process = await start_asleep(machine, app, tmp_path)
    assert await machine.launcher.deliver(process.pid, "STOP")
    with anyio.move_on_after(0.8):
        await process.ended.wait()
    assert (await read_record(machine, process.pid)).state == "STOPPED"

    assert await machine.launcher.deliver(process.pid, "CONT")

    assert await finish(process) == ("exited", "done")


# -- at a terminal


async def test_a_question_stays_on_the_screen_and_its_answer_wakes(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    app = make_app("asker", "return await sys_.ask('name? ')")
    async with connect(machine) as person:
        await person.send(Run(app, (), str(tmp_path), model="echo"))
        asked = await person.hear(Asked)
        await wait_asleep(machine, asked.pid)
        await person.send(Input(asked.ask, "Ada"))

        ended = await person.hear(Ended)

    assert ended.exit.result == "Ada"
    assert [type(event).__name__ for event in person.events] == ["Started", "Asked", "Ended"]


async def test_what_wakes_writes_to_the_terminal_that_stayed(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    app = make_app("sleeper", "await sys_.sleep(0.6)\nawait sys_.print('awake')")
    async with connect(machine) as person:
        await person.send(Run(app, (), str(tmp_path), model="echo"))
        await wait_asleep(machine, (await person.hear(Started)).pid)

        await person.hear(Ended)

    assert person.output() == "awake\n"
    assert [type(event).__name__ for event in person.events] == ["Started", "Output", "Ended"]


async def test_ctrl_c_ends_what_sleeps_in_front(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    async with connect(machine) as person:
        await person.send(Run(make_app("sleeper", LONG), (), str(tmp_path), model="echo"))
        await wait_asleep(machine, (await person.hear(Started)).pid)
        await person.send(Interrupt())

        ended = await person.hear(Ended)

    assert (ended.exit.status, ended.exit.code) == ("killed", 7)


async def test_a_person_who_leaves_takes_what_sleeps_along(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    async with connect(machine) as person:
        await person.send(Run(make_app("sleeper", LONG), (), str(tmp_path), model="echo"))
        pid = (await person.hear(Started)).pid
        await wait_asleep(machine, pid)

    record = await wait_record_ended(machine, pid)
    assert "the end of its terminal" in (record.result or "")


# -- in the moment of eviction


async def evict_at(machine: Machine, process: Process) -> None:
    """Begin to evict a process that waits."""
    with anyio.fail_after(20):
        while not is_waiting(process):
            await anyio.lowlevel.checkpoint()
        waits: tuple[Wait, ...] = ()
        while not waits:
            waits = await plan_waits(machine, process, 0.0)
    machine.launcher.evict(process, waits)


@pytest.fixture
async def slow(tmp_path: Path) -> AsyncIterator[Machine]:
    """A kernel that evicts nobody by itself."""
    async with boot(load_sleepy(tmp_path, 0)) as machine:
        yield machine


async def test_a_kill_in_the_moment_of_eviction_kills(
    slow: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    process = await start(slow, make_app("sleeper", LONG), tmp_path)
    await evict_at(slow, process)

    slow.launcher.signal(process, "TERM")

    assert (await finish(process))[0] == "killed"


async def test_an_answer_in_the_moment_of_eviction_is_heard(
    slow: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    process = await start(slow, make_app("asker", "return await sys_.ask('?')"), tmp_path)
    await evict_at(slow, process)

    asker = process.terminal.answer(1, "Ada")

    assert asker == process.pid
    await slow.launcher.wake_if_asleep(asker)
    assert await finish(process) == ("exited", "Ada")


async def test_a_time_that_comes_in_the_moment_of_eviction_is_kept(
    slow: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    process = await start(slow, make_app("sleeper", "await sys_.sleep(0.2)\nreturn 1"), tmp_path)
    await evict_at(slow, process)

    assert await finish(process) == ("exited", "1")


async def test_a_stop_in_the_moment_of_eviction_holds(
    slow: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    app = make_app("sleeper", "await sys_.sleep(0.3)\nreturn 'done'")
    process = await start(slow, app, tmp_path)
    await evict_at(slow, process)
    slow.launcher.signal(process, "STOP")
    with anyio.move_on_after(0.6):
        await process.ended.wait()
    assert (process.state, (await read_record(slow, process.pid)).state) == ("STOPPED", "STOPPED")

    slow.launcher.signal(process, "CONT")

    assert await finish(process) == ("exited", "done")


async def test_what_is_called_in_the_moment_of_eviction_is_not_heard(
    attach: Attach, machine: Machine
) -> None:
    system, process = await attach()
    process.leaving = (Wait(process.pid, "0", 0, "person"),)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(system.print, "to be said by the replay")
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()

    assert process.has_left
    assert await load(machine.db, process.pid) == []
