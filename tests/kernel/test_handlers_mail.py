"""Mail between processes: received once and in order, by whoever may hear of it."""

from pathlib import Path

import anyio
import msgspec
import pytest

from llmos.kernel.capability import Capabilities
from llmos.kernel.machine import Machine
from llmos.kernel.main import boot
from llmos.kernel.process import Process
from llmos.memory import mail, processes
from llmos.memory.mail import MAX_MAIL
from llmos.syscalls.client import System
from llmos.syscalls.errors import E_ARG, E_BUSY, E_PERM
from llmos.syscalls.ipc import MAX_LETTER_CHARS

from .conftest import Attach, MakeApp, read_rows, start
from .sleeping import finish, load_sleepy, wait_asleep

pytestmark = pytest.mark.anyio


async def make_kin(attach: Attach, machine: Machine) -> tuple[System, Process, System, Process]:
    """A parent and its child, neither with a capability."""
    parent_system, parent = await attach(Capabilities())
    child_system, child = await attach(Capabilities())
    child.parent = parent.pid
    await processes.update(machine.db, child.pid, parent=parent.pid)
    return parent_system, parent, child_system, child


async def test_messages_are_received_in_order_with_their_sender(
    attach: Attach, machine: Machine
) -> None:
    parent_system, parent, child_system, child = await make_kin(attach, machine)

    for text in ("one", "zwölf\n"):
        await parent_system.send(child.pid, text)
    letters = [await child_system.receive() for _ in range(2)]

    assert [letter and letter.text for letter in letters] == ["one", "zwölf\n"]
    assert letters[0] is not None
    assert letters[0].sender == parent.pid


async def test_who_waits_gets_what_comes(attach: Attach, machine: Machine) -> None:
    parent_system, parent, child_system, _ = await make_kin(attach, machine)
    received: list[str] = []

    async def receive() -> None:
        letter = await parent_system.receive(timeout_seconds=20)
        received.append(letter.text if letter else "")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        await child_system.send(parent.pid, "hello")

    assert received == ["hello"]


async def test_several_who_wait_get_a_message_each(attach: Attach, machine: Machine) -> None:
    parent_system, parent, child_system, _ = await make_kin(attach, machine)
    received: list[str] = []

    async def receive() -> None:
        letter = await parent_system.receive()
        received.append(letter.text if letter else "")

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        for number in range(5):
            await child_system.send(parent.pid, str(number))

    assert sorted(received) == list("01234")
    assert await mail.find_oldest(machine.db, parent.pid) is None


async def test_when_the_time_is_over_there_is_no_message(attach: Attach, machine: Machine) -> None:
    system, process = await attach()

    assert await system.receive(timeout_seconds=0.01) is None

    (row,) = await read_rows(machine, process)
    assert (row.name, row.state) == ("receive", "DONE")


async def test_a_replay_receives_the_same_message_and_takes_no_other(
    attach: Attach, machine: Machine
) -> None:
    parent_system, _, child_system, child = await make_kin(attach, machine)
    await parent_system.send(child.pid, "first")
    await parent_system.send(child.pid, "second")
    before = await child_system.receive()
    rows = await read_rows(machine, child)
    child.begin_again(rows, (0, 0), 0)
    child.state = "NEW"

    again, _ = await attach(again=child)

    assert await again.receive() == before
    left = await mail.find_oldest(machine.db, child.pid)
    assert left is not None
    assert left.text == "second"


async def test_a_stranger_needs_a_capability(attach: Attach, machine: Machine) -> None:
    nobody_system, nobody = await attach(Capabilities())
    system, _ = await attach(msgspec.convert({"processes": True}, Capabilities))
    stranger, _ = await attach(Capabilities())

    assert await system.send(nobody.pid, "I may")
    assert await nobody_system.send(nobody.pid, "to myself")
    with pytest.raises(E_PERM, match="processes = true"):
        await stranger.send(nobody.pid, "I may not")


async def test_another_tenants_process_is_out_of_reach(attach: Attach, machine: Machine) -> None:
    system, _ = await attach()
    _, other = await attach()
    await processes.update(machine.db, other.pid, tenant="other")

    with pytest.raises(E_PERM, match="another tenant"):
        await system.send(other.pid, "hello")


async def test_nobody_writes_to_what_has_ended_or_never_was(
    attach: Attach, machine: Machine
) -> None:
    system, _ = await attach()
    _, gone = await attach()
    await processes.update(machine.db, gone.pid, ended_at=1.0)

    for pid in (gone.pid, 99):
        with pytest.raises(E_ARG) as refused:
            await system.send(pid, "hello")
        assert refused.value.field == "pid"


async def test_a_full_box_is_busy_and_a_long_message_is_refused(
    attach: Attach, machine: Machine
) -> None:
    system, process = await attach()
    await machine.db.write(
        lambda c: [mail.post(c, process.pid, 1, 1.0, "x") for _ in range(MAX_MAIL)][-1]
    )

    with pytest.raises(E_BUSY) as busy:
        await system.send(process.pid, "one more")
    with pytest.raises(E_ARG):
        await system.send(process.pid, "x" * (MAX_LETTER_CHARS + 1))

    assert (busy.value.field, busy.value.retry_after_seconds) == ("pid", 1.0)


async def test_a_message_wakes_a_process_that_sleeps_for_it(
    make_app: MakeApp, tmp_path: Path
) -> None:
    child = make_app("child", "letter = await sys_.receive()\nreturn letter.text")
    body = f"""
    pid = await sys_.spawn({child!r})
    await sys_.sleep(0.9)
    await sys_.send(pid, "good morning")
    return (await sys_.wait(pid)).result
    """
    async with boot(load_sleepy(tmp_path)) as machine:
        parent = await start(machine, make_app("parent", body), tmp_path)
        await wait_asleep(machine, parent.pid, parent.pid + 1)

        assert await finish(parent) == ("exited", "good morning")


async def test_an_end_empties_the_box(make_app: MakeApp, tmp_path: Path) -> None:
    body = "await sys_.send(await sys_.getpid(), 'unread')"
    async with boot(load_sleepy(tmp_path)) as machine:
        process = await start(machine, make_app("writer", body), tmp_path)
        await finish(process)

        assert await mail.find_oldest(machine.db, process.pid) is None
