"""When a kernel boots, what had not ended goes on by itself; a person may come to it."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from llmos.kernel.listing import list_processes
from llmos.kernel.machine import Machine
from llmos.kernel.main import boot
from llmos.kernel.protocol import (
    Asked,
    Ended,
    Input,
    Interrupt,
    Output,
    Refused,
    Resume,
    Run,
    Started,
)
from llmos.memory.journal import read_output
from llmos.syscalls.process import ProcessInfo

from .conftest import MakeApp, prepare, record, start
from .sleeping import load_sleepy, read_record, wait_asleep, wait_record_ended
from .test_control_gate import Person, connect

pytestmark = pytest.mark.anyio
WORKER = "await sys_.print('first')\nawait sys_.sleep(0.3)\nawait sys_.print('second')"
LONG = "await sys_.sleep(1000)"


@asynccontextmanager
async def recovered(tmp_path: Path, evict_after_seconds: float = 0.1) -> AsyncIterator[Machine]:
    """A kernel that has been told to go on with what was left."""
    async with boot(load_sleepy(tmp_path, evict_after_seconds)) as machine:
        machine.launcher.recover()
        yield machine


async def leave_behind(tmp_path: Path, *apps: str) -> list[int]:
    """Start apps in a kernel that ends while they run; their pids."""
    async with boot(load_sleepy(tmp_path, 0)) as machine:
        pids = [(await start(machine, app, tmp_path)).pid for app in apps]
        with anyio.fail_after(20):
            for pid in pids:
                while not await read_output(machine.db, pid):
                    pass
    return pids


async def put_to_sleep(tmp_path: Path, *apps: str) -> list[int]:
    """Start apps that sleep before their kernel ends; their pids."""
    async with boot(load_sleepy(tmp_path)) as machine:
        pids = [(await start(machine, app, tmp_path)).pid for app in apps]
        await wait_asleep(machine, *pids)
    return pids


async def show(machine: Machine) -> dict[int, ProcessInfo]:
    return {info.pid: info for info in (await list_processes(machine, 100)).processes}


async def test_what_was_left_goes_on_and_repeats_nothing(make_app: MakeApp, tmp_path: Path) -> None:
    pids = await leave_behind(tmp_path, make_app("one", WORKER), make_app("two", WORKER))

    async with recovered(tmp_path) as machine:
        ended = [(await wait_record_ended(machine, pid)).exit_status for pid in pids]
        texts = [await read_output(machine.db, pid) for pid in pids]

    assert (ended, texts) == (["exited"] * 2, ["first\nsecond\n"] * 2)


async def test_a_kernel_that_is_not_told_leaves_all_as_it_is(
    make_app: MakeApp, tmp_path: Path
) -> None:
    (pid,) = await leave_behind(tmp_path, make_app("one", WORKER))

    async with boot(load_sleepy(tmp_path)) as machine:
        await anyio.wait_all_tasks_blocked()
        assert len(machine.table) == 0
        assert (await show(machine))[pid].state == "EVICTED"


async def test_what_sleeps_stays_a_row(make_app: MakeApp, tmp_path: Path) -> None:
    app = make_app("sleeper", LONG)
    pids = await put_to_sleep(tmp_path, app, app, app)

    async with recovered(tmp_path) as machine:
        await anyio.wait_all_tasks_blocked()
        listed = await show(machine)

        assert len(machine.table) == 0
        assert [listed[pid].waits[0].kind for pid in pids] == ["timer"] * 3


async def test_who_should_have_been_woken_meanwhile_is_woken_at_boot(
    make_app: MakeApp, tmp_path: Path
) -> None:
    (pid,) = await put_to_sleep(tmp_path, make_app("sleeper", "await sys_.sleep(0.8)"))
    await anyio.sleep(0.8)

    async with recovered(tmp_path) as machine:
        assert (await wait_record_ended(machine, pid)).exit_status == "exited"


async def test_an_app_that_is_gone_hinders_nobody_and_goes_on_when_it_is_back(
    make_app: MakeApp, tmp_path: Path
) -> None:
    gone, other = await leave_behind(tmp_path, make_app("gone", WORKER), make_app("other", WORKER))
    shutil.move(tmp_path / "gone", tmp_path / "elsewhere")
    async with recovered(tmp_path) as machine:
        assert (await wait_record_ended(machine, other)).exit_status == "exited"
        assert "no app.toml in" in (await show(machine))[gone].left_because
        log = (machine.config.logs / "kernel.log").read_text()
    assert f"process {gone} is left: no app.toml in" in log

    shutil.move(tmp_path / "elsewhere", tmp_path / "gone")
    async with recovered(tmp_path) as machine:
        assert (await wait_record_ended(machine, gone)).exit_status == "exited"


async def test_a_damaged_journal_hinders_nobody_and_can_be_ended(
    make_app: MakeApp, tmp_path: Path
) -> None:
    damaged, other = await leave_behind(
        tmp_path, make_app("damaged", WORKER), make_app("other", WORKER)
    )
    async with boot(load_sleepy(tmp_path)) as machine:
        edit = "UPDATE journal SET result = x'00' WHERE seq = 0 AND pid = ?"
        await machine.db.write(lambda c: c.exec_driver_sql(edit, (damaged,)).rowcount)

    async with recovered(tmp_path) as machine:
        assert (await wait_record_ended(machine, other)).exit_status == "exited"
        assert f"call {damaged}/0/0 is damaged" in (await show(machine))[damaged].left_because
        assert await machine.launcher.deliver(damaged, "KILL")
        assert (await wait_record_ended(machine, damaged)).exit_status == "killed"


async def test_a_stopped_process_stays_stopped_until_it_is_continued(
    make_app: MakeApp, tmp_path: Path
) -> None:
    async with boot(load_sleepy(tmp_path, 0)) as machine:
        process = await start(machine, make_app("worker", WORKER), tmp_path)
        with anyio.fail_after(20):
            await process.greeted.wait()
        machine.launcher.signal(process, "STOP")
        pid = process.pid

    async with recovered(tmp_path) as machine:
        await anyio.wait_all_tasks_blocked()
        assert (await show(machine))[pid].state == "STOPPED"
        assert await machine.launcher.deliver(pid, "CONT")
        assert (await wait_record_ended(machine, pid)).exit_status == "exited"


async def test_what_was_started_and_never_ran_is_run(make_app: MakeApp, tmp_path: Path) -> None:
    app = make_app("worker", WORKER)
    async with boot(load_sleepy(tmp_path)) as machine:
        pid = await record(machine, prepare(machine, app, tmp_path))

    async with recovered(tmp_path) as machine:
        assert (await wait_record_ended(machine, pid)).exit_status == "exited"


async def test_nobody_waits_for_what_was_brought_back(make_app: MakeApp, tmp_path: Path) -> None:
    (pid,) = await leave_behind(tmp_path, make_app("long", "await sys_.print('x')\n" + LONG))

    async with recovered(tmp_path, 0) as machine:
        with anyio.fail_after(20):
            while machine.table.get(pid) is None:
                await anyio.lowlevel.checkpoint()
            await machine.wait_idle()


async def test_the_end_of_what_was_brought_back_and_killed_is_waited_for(
    make_app: MakeApp, tmp_path: Path
) -> None:
    (pid,) = await leave_behind(tmp_path, make_app("long", "await sys_.print('x')\n" + LONG))

    async with recovered(tmp_path, 0) as machine:
        with anyio.fail_after(20):
            while machine.table.get(pid) is None:
                await anyio.lowlevel.checkpoint()
            assert await machine.launcher.deliver(pid, "TERM")
            await machine.wait_idle()
        assert (await read_record(machine, pid)).exit_status == "killed"


PONG = """
while (letter := await sys_.receive()).text != "end":
    await sys_.sleep(0.3)
    await sys_.send(letter.sender, letter.text)
"""
PING = """
child = await sys_.spawn(words[0])
for number in range(6):
    await sys_.send(child, str(number))
    await sys_.print((await sys_.receive()).text)
await sys_.send(child, "end")
await sys_.wait(child)
"""


async def test_who_writes_to_each_other_through_sleeps_and_boots_loses_and_repeats_nothing(
    make_app: MakeApp, tmp_path: Path
) -> None:
    ping, pong = make_app("ping", PING), make_app("pong", PONG)
    async with boot(load_sleepy(tmp_path, 0.05)) as machine:
        pid = (await start(machine, ping, tmp_path, pong)).pid
        with anyio.move_on_after(1.5):
            await wait_record_ended(machine, pid)

    async with recovered(tmp_path, 0.05) as machine:
        assert (await wait_record_ended(machine, pid)).exit_status == "exited"
        assert await read_output(machine.db, pid) == "0\n1\n2\n3\n4\n5\n"


# -- a person comes


async def hear_end(person: Person) -> tuple[str, str]:
    ended = await person.hear(Ended)
    return ended.exit.status, ended.exit.result


async def run_detached(machine: Machine, app: str, workspace: Path) -> int:
    async with connect(machine) as person:
        await person.send(Run(app, (), str(workspace), model="echo", detach=True))
        return (await person.hear(Started)).pid


async def test_a_detached_process_asks_whoever_comes(make_app: MakeApp, tmp_path: Path) -> None:
    app = make_app("asker", "return await sys_.ask('name? ')")
    async with boot(load_sleepy(tmp_path)) as machine:
        pid = await run_detached(machine, app, tmp_path)
        await wait_asleep(machine, pid)
        assert (await show(machine))[pid].waits[0].kind == "person"
        async with connect(machine) as person:
            await person.send(Resume(pid))
            await person.send(Input((await person.hear(Asked)).ask, "Ada"))

            assert await hear_end(person) == ("exited", "Ada")


async def test_a_question_of_a_process_that_lives_is_shown_to_who_comes(
    make_app: MakeApp, tmp_path: Path
) -> None:
    app = make_app("asker", "await sys_.print('up')\nreturn await sys_.ask('name? ')")
    async with boot(load_sleepy(tmp_path, 0)) as machine:
        pid = await run_detached(machine, app, tmp_path)
        with anyio.fail_after(20):
            while not await read_output(machine.db, pid):
                pass
        async with connect(machine) as person:
            await person.send(Resume(pid))
            await person.send(Input((await person.hear(Asked)).ask, "Ada"))

            assert await hear_end(person) == ("exited", "Ada")
    assert isinstance(person.events[0], Started)


async def test_who_comes_sees_what_is_written_from_then_on(
    make_app: MakeApp, tmp_path: Path
) -> None:
    (pid,) = await put_to_sleep(
        tmp_path, make_app("sleeper", "await sys_.sleep(0.8)\nawait sys_.print('awake')")
    )
    async with recovered(tmp_path) as machine, connect(machine) as person:
        await person.send(Resume(pid))
        await person.hear(Output)

        assert (await hear_end(person))[0] == "exited"
    assert person.output() == "awake\n"


async def test_a_process_has_one_person(make_app: MakeApp, tmp_path: Path) -> None:
    app = make_app("asker", "await sys_.ask('name? ')")
    async with (
        boot(load_sleepy(tmp_path)) as machine,
        connect(machine) as first,
        connect(machine) as second,
    ):
        await first.send(Run(app, (), str(tmp_path), model="echo"))
        pid = (await first.hear(Asked)).pid
        await wait_asleep(machine, pid)
        await second.send(Resume(pid))

        refused = await second.hear(Refused)
        await first.send(Interrupt())
        await first.hear(Ended)

    assert (refused.error.code, refused.error.field) == ("E_ARG", "pid")
    assert refused.error.message == f"process {pid} has a person already"


async def test_nobody_comes_to_what_has_ended_or_never_was(
    make_app: MakeApp, tmp_path: Path
) -> None:
    async with boot(load_sleepy(tmp_path)) as machine:
        pid = await run_detached(machine, make_app("short", "pass"), tmp_path)
        await wait_record_ended(machine, pid)
        messages = []
        for number in (pid, pid + 100):
            async with connect(machine) as person:
                await person.send(Resume(number))
                messages.append((await person.hear(Refused)).error.message)

    assert messages[0].startswith(f"process {pid} has ended; fix: llmos run ")
    assert messages[1] == f"there is no process {pid + 100}"


async def test_who_comes_to_what_cannot_go_on_is_told_why(
    make_app: MakeApp, tmp_path: Path
) -> None:
    (pid,) = await put_to_sleep(tmp_path, make_app("gone", LONG))
    shutil.rmtree(tmp_path / "gone")

    async with recovered(tmp_path) as machine, connect(machine) as person:
        await person.send(Resume(pid))

        assert "no app.toml in" in (await person.hear(Refused)).error.message
        assert (await read_record(machine, pid)).state == "EVICTED"
