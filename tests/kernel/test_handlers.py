"""Handlers of one call each: output, questions, files, notes, time, and other processes."""

import time
import uuid
from pathlib import Path

import anyio
import msgspec
import pytest

from llmos.kernel.capability import Capabilities
from llmos.kernel.journal import digest_call
from llmos.kernel.machine import Machine
from llmos.kernel.protocol import Asked, Output, ToolRan
from llmos.kernel.terminal import Terminal
from llmos.memory.journal import read_output
from llmos.syscalls.client import Context
from llmos.syscalls.errors import E_ARG, E_PERM, E_TOOL
from llmos.syscalls.ipc import Print, Printed
from llmos.syscalls.process import ProcessExit, Spawn, Wait
from llmos.syscalls.table import TABLE
from llmos.syscalls.types import Message
from llmos.syscalls.values import Sleep

from .conftest import Attach, make_process, read_rows

pytestmark = pytest.mark.anyio


async def test_a_print_says_where_its_text_starts(attach: Attach, machine: Machine) -> None:
    system, process = await attach()

    offsets = [await system.call(Print(text)) for text in ("zwölf", "", "x")]

    assert offsets == [Printed(0), Printed(5), Printed(5)]
    assert await read_output(machine.db, process.pid) == "zwölfx"
    assert process.num_printed_chars == 6


async def test_a_print_joins_its_parts_like_the_builtin(attach: Attach) -> None:
    system, process = await attach()
    process.terminal = Terminal()

    await system.print("a", 1, None, end="!")

    assert await process.terminal.next_event() == Output(process.pid, "a 1 None!")


async def test_a_question_without_a_person_has_no_answer(attach: Attach, machine: Machine) -> None:
    system, process = await attach()

    assert await system.ask("name?") is None

    (row,) = await read_rows(machine, process)
    assert (row.name, row.state) == ("ask", "DONE")


async def test_an_answer_reaches_the_app_and_is_asked_for_once(
    attach: Attach, machine: Machine
) -> None:
    system, process = await attach()
    process.terminal = Terminal()

    async def answer() -> None:
        asked = await process.terminal.next_event()
        assert isinstance(asked, Asked)
        assert (asked.pid, asked.prompt, asked.choices) == (process.pid, "name?", ("Ada",))
        process.terminal.answer(asked.ask, "Ada")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answer)
        assert await system.ask("name?", choices=["Ada"]) == "Ada"
    rows = await read_rows(machine, process)
    process.journaled = {(row.strand, row.seq): row for row in rows}
    process.next_seq = {}
    again, _ = await attach(again=process)
    assert await again.ask("name?", choices=["Ada"]) == "Ada"


async def test_files_are_written_listed_and_read_back(attach: Attach, tmp_path: Path) -> None:
    system, _ = await attach()

    assert await system.write_file("drafts/a.txt", "zwölf\n") == 7

    assert "drafts/" in await system.list_files()
    assert await system.list_files("drafts") == ("a.txt",)
    assert await system.read_file("drafts/a.txt") == "zwölf\n"
    assert (tmp_path / "drafts" / "a.txt").read_text() == "zwölf\n"


async def test_a_long_file_is_read_in_parts(
    attach: Attach, machine: Machine, tmp_path: Path
) -> None:
    system, process = await attach()
    text = "é" * 450_000
    (tmp_path / "long.txt").write_text(text)

    assert await system.read_file("long.txt") == text

    assert len(await read_rows(machine, process)) == 3


@pytest.mark.parametrize("path", ["../outside.txt", "/etc/passwd"])
async def test_a_file_elsewhere_is_refused_and_leaves_no_row(
    attach: Attach, machine: Machine, path: str
) -> None:
    system, process = await attach()

    with pytest.raises(E_PERM):
        await system.read_file(path)
    with pytest.raises(E_PERM):
        await system.write_file(path, "x")

    assert await read_rows(machine, process) == []


async def test_a_file_that_is_not_there_is_a_journaled_error(
    attach: Attach, machine: Machine
) -> None:
    system, process = await attach()

    with pytest.raises(E_ARG, match="no such file"):
        await system.read_file("nothing.txt")

    (row,) = await read_rows(machine, process)
    assert row.state == "FAILED"


async def test_a_note_that_is_forgotten_is_not_recalled(attach: Attach) -> None:
    system, _ = await attach()
    uid = await system.remember("the code is 1234")
    assert [note.uid for note in await system.recall("code")] == [uid]

    assert await system.forget(uid) is True

    assert await system.recall("code") == ()
    assert await system.forget(uid) is False


async def test_notes_go_to_the_first_space_and_others_are_refused(attach: Attach) -> None:
    system, _ = await attach()
    await system.remember("a fact", kind="fact", role="user")

    (note,) = await system.recall("fact", space="notes")

    assert (note.space, note.kind, note.role) == ("notes", "fact", "user")
    with pytest.raises(E_PERM):
        await system.recall("fact", space="other")
    with pytest.raises(E_PERM):
        await system.remember("a fact", space="other")


async def test_a_context_belongs_to_its_process(attach: Attach) -> None:
    owner, _ = await attach()
    stranger, _ = await attach()
    secret = await owner.context(system="secret")
    context = Context(stranger, secret.number)

    with pytest.raises(E_ARG, match="has no context 1"):
        await context.messages()
    with pytest.raises(E_ARG, match="has no context 1"):
        await context.user("hello")
    assert await Context(owner, secret.number).messages() == (Message("system", "secret"),)


async def test_time_and_chance_are_real(attach: Attach) -> None:
    system, _ = await attach()

    before, now, after = time.time(), await system.now(), time.time()

    assert before <= now <= after
    assert uuid.UUID(await system.uuid()).version == 4
    assert await system.uuid() != await system.uuid()


async def test_a_sleep_that_was_interrupted_waits_only_for_the_rest(
    attach: Attach, machine: Machine, tmp_path: Path
) -> None:
    process = await make_process(machine, tmp_path)
    entry = machine.journal.entry(
        process, "0", 0, TABLE["sleep"], "wait", digest_call(Sleep(1000.0))
    )
    await entry.begin(durable=True)
    (row,) = await read_rows(machine, process)
    long_ago = msgspec.structs.replace(row, started_at=row.started_at - 2000.0)
    process.journaled = {("0", 0): long_ago}
    system, _ = await attach(again=process)

    with anyio.fail_after(20):
        await system.sleep(1000.0)

    assert [row.state for row in await read_rows(machine, process)] == ["DONE"]


async def test_a_child_that_nobody_knows_cannot_be_waited_for(attach: Attach) -> None:
    system, process = await attach()

    with pytest.raises(E_ARG, match="there is no process 99"):
        await system.wait(99)
    with pytest.raises(E_PERM, match="not a child"):
        await system.wait(process.pid)


async def test_a_childs_end_reaches_whoever_waits(
    attach: Attach, machine: Machine, tmp_path: Path
) -> None:
    system, parent = await attach()
    child = await make_process(machine, tmp_path)
    child.parent = parent.pid
    ended = ProcessExit(child.pid, "exited", 0, "done")

    async def end() -> None:
        await anyio.wait_all_tasks_blocked()
        child.exit = ended
        child.ended.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(end)
        assert await system.call(Wait(child.pid)) == ended


async def test_whoever_waits_may_leave_the_front_to_the_child(
    attach: Attach, machine: Machine, tmp_path: Path
) -> None:
    system, parent = await attach()
    child = await make_process(machine, tmp_path)
    child.parent, child.terminal = parent.pid, Terminal()
    child.exit = ProcessExit(child.pid, "exited", 0)
    child.ended.set()

    await system.wait(child.pid)
    assert child.terminal.front is None
    await system.wait(child.pid, foreground=True)
    assert child.terminal.front == child.pid


async def test_ps_shows_the_caller_waiting_for_its_own_answer(attach: Attach) -> None:
    system, process = await attach()

    (info,) = await system.ps()

    assert (info.pid, info.state) == (process.pid, "WAITING")


@pytest.mark.parametrize("call", [Spawn("ask"), Spawn("./elsewhere")])
async def test_children_and_listings_need_a_capability(attach: Attach, call: Spawn) -> None:
    system, _ = await attach(Capabilities())

    with pytest.raises(E_PERM):
        await system.call(call)
    with pytest.raises(E_PERM):
        await system.ps()
    with pytest.raises(E_PERM):
        await system.signal(1)


async def test_the_person_sees_a_tool_run_and_fail(attach: Attach) -> None:
    system, process = await attach()
    process.terminal = Terminal()

    await system.tool("calculator", expression="6 * 7")
    with pytest.raises(E_TOOL):
        await system.tool("calculator", expression="1 / 0")

    events = [await process.terminal.next_event() for _ in range(2)]
    assert all(isinstance(event, ToolRan) and event.seconds >= 0 for event in events)
    ran = [(event.text, event.failed) for event in events if isinstance(event, ToolRan)]
    assert ran[0] == ("42", False)
    assert ran[1][1] is True
