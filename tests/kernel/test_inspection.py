"""What a process was after its first calls, its history and what came of its spawns."""

from pathlib import Path

import msgspec
import pytest

from llmos.kernel import inspection
from llmos.kernel.history import describe_call, read_history
from llmos.kernel.inspection import inspect
from llmos.kernel.machine import Machine
from llmos.kernel.protocol import Inspection, InspectionPart
from llmos.kernel.tracing import read_trace
from llmos.memory import processes
from llmos.memory.journal import insert_row
from llmos.syscalls.client import System
from llmos.syscalls.errors import E_ARG, E_PERM
from llmos.syscalls.process import PidReply
from llmos.syscalls.types import Message
from llmos.syscalls.wire import encode

from .conftest import make_process
from .replays import run_once, run_until
from .test_replay import recorded

pytestmark = pytest.mark.anyio


async def main(system: System) -> str:
    context = await system.context("Be brief.")
    await system.print("begun")
    answer = await context.generate("one two three")
    await context.user(answer.text)
    await system.generate("four", n=2)
    await system.print("done")
    return "ok"


async def look(
    machine: Machine, pid: int, at: int | None = None
) -> tuple[Inspection, list[InspectionPart]]:
    head, *parts = [part async for part in inspect(machine, pid, at)]
    assert isinstance(head, Inspection)
    return head, [part for part in parts if isinstance(part, InspectionPart)]


async def test_the_present_is_the_whole_of_the_past(machine: Machine, tmp_path: Path) -> None:
    process = await run_once(machine, tmp_path, main)

    head, parts = await look(machine, process.pid)

    assert (head.at, head.num_calls, head.state) == (6, 6, "ZOMBIE")
    assert head.calls == {"context_create": 1, "print": 2, "generate": 2, "context_append": 1}
    assert (head.prompt_tokens > 0, head.completion_tokens, head.open) == (True, 5, ())
    assert [part.output for part in parts] == ["begun\ndone\n", "", ""]
    assert parts[1].messages == (Message("system", "Be brief."), Message("user", "one two three"))
    assert parts[-1] == InspectionPart(is_last=True)


async def test_the_past_knows_nothing_of_what_came_later(machine: Machine, tmp_path: Path) -> None:
    process = await run_once(machine, tmp_path, main)

    head, parts = await look(machine, process.pid, 3)

    assert (head.at, head.num_calls, head.state) == (3, 6, "READY")
    assert (head.completion_tokens, head.contexts) == (3, {1: 1})
    assert [part.output for part in parts] == ["begun\n", "", ""]
    assert parts[1].messages == (Message("system", "Be brief."),)


async def test_at_its_beginning_a_process_has_nothing(machine: Machine, tmp_path: Path) -> None:
    process = await run_once(machine, tmp_path, main)

    head, parts = await look(machine, process.pid, 0)

    assert (head.calls, head.contexts, head.completion_tokens) == ({}, {}, 0)
    assert parts == [InspectionPart(is_last=True)]


async def test_a_call_without_an_answer_is_open(machine: Machine, tmp_path: Path) -> None:
    async def sleeping(system: System) -> None:
        await system.now()
        await system.sleep(1000)

    process = await run_until(machine, tmp_path, sleeping, "sleep")

    head, _ = await look(machine, process.pid)

    assert [(row.number, row.name, row.state) for row in head.open] == [(2, "sleep", "INTENT")]
    assert head.state == "EVICTED"


async def test_long_output_comes_in_parts(machine: Machine, tmp_path: Path) -> None:
    async def talk(system: System) -> None:
        for _ in range(4):
            await system.print("x" * (inspection.PART_CHARS // 2))

    process = await run_once(machine, tmp_path, talk)

    _, parts = await look(machine, process.pid)

    assert len([part for part in parts if part.output]) == 2


@pytest.mark.parametrize(("pid", "at", "field"), [(99, None, "pid"), (1, 7, "at")])
async def test_what_there_is_not_is_named(
    machine: Machine, tmp_path: Path, pid: int, at: int | None, field: str
) -> None:
    await run_once(machine, tmp_path, main)

    with pytest.raises(E_ARG) as caught:
        await look(machine, pid, at)

    assert caught.value.field == field


async def test_another_tenants_process_is_not_shown(machine: Machine, tmp_path: Path) -> None:
    process = await run_once(machine, tmp_path, main)
    await processes.update(machine.db, process.pid, tenant="others")

    with pytest.raises(E_PERM):
        await look(machine, process.pid)


async def test_calls_are_numbered_in_the_order_in_which_they_began(
    machine: Machine, tmp_path: Path
) -> None:
    process = await run_once(machine, tmp_path, main)

    rows = [row async for piece in read_history(machine, process.pid) for row in piece]

    assert [(row.number, row.seq) for row in rows] == [(n + 1, n) for n in range(6)]
    assert [(row.name, row.num_branches) for row in rows if row.num_branches] == [
        ("generate", 1),
        ("generate", 2),
    ]
    assert rows[4].completion_tokens == 2


def test_a_spawn_names_its_child() -> None:
    row = recorded("spawn", state="DONE", result=encode(PidReply(7)))

    assert describe_call(3, row).child == 7


async def test_a_trace_has_a_process_before_its_children(machine: Machine, tmp_path: Path) -> None:
    child = await run_once(machine, tmp_path, main)
    process = await make_process(machine, tmp_path)
    spawn = recorded("spawn", state="DONE", result=encode(PidReply(child.pid)))
    row = msgspec.structs.replace(spawn, pid=process.pid)
    await machine.db.write(lambda connection: insert_row(connection, row))

    pieces = [piece async for piece in read_trace(machine, process.pid)]

    assert [piece.process.pid for piece in pieces if piece.process] == [process.pid, child.pid]
    assert [len(piece.rows) for piece in pieces] == [0, 1, 0, 6]
    with pytest.raises(E_ARG, match="no process 99"):
        [piece async for piece in read_trace(machine, 99)]
