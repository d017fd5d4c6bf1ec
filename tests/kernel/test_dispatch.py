"""Every call gets a reply, and the journal says what happened."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from llmos.kernel.capability import Capabilities
from llmos.kernel.handlers import HANDLERS
from llmos.kernel.machine import Machine
from llmos.kernel.tools.builtin import BUILTIN_TOOLS
from llmos.kernel.tools.registry import Registry
from llmos.memory.db import Connection
from llmos.memory.journal import read_output
from llmos.syscalls.errors import (
    E_ARG,
    E_CANCELLED,
    E_CONTEXT,
    E_KERNEL,
    E_NONDETERMINISM,
    E_PERM,
    E_STORAGE,
    E_TOOL,
)
from llmos.syscalls.generate import Generate
from llmos.syscalls.table import TABLE
from llmos.syscalls.types import Sampling
from llmos.syscalls.values import Now

from .conftest import Attach, read_rows

pytestmark = pytest.mark.anyio
SLOW = "!slow 20 " + "word " * 1000


def test_every_row_of_the_table_has_a_handler() -> None:
    assert set(HANDLERS) == set(TABLE)


async def test_a_call_is_answered_and_journaled(attach: Attach, machine: Machine) -> None:
    system, process = await attach()

    number = await system.random()

    (row,) = await read_rows(machine, process)
    assert 0 <= number < 1
    assert (row.name, row.state, row.strand, row.seq) == ("random", "DONE", "0", 0)


async def test_the_null_call_leaves_no_row(attach: Attach, machine: Machine) -> None:
    system, process = await attach()

    pid = await system.getpid()

    assert pid == process.pid
    assert await read_rows(machine, process) == []


async def test_generate_answers_and_uses_tokens(attach: Attach, machine: Machine) -> None:
    system, process = await attach()
    parts: list[str] = []

    answer = await system.generate("hello there", on_text=parts.append)

    assert answer.text == "hello there" == "".join(parts)
    assert process.completion_tokens == answer.usage.completion_tokens > 0


async def test_bad_arguments_name_the_field_and_leave_no_row(
    attach: Attach, machine: Machine
) -> None:
    system, process = await attach()

    with pytest.raises(E_ARG) as caught:
        await system.generate("hi", temperature=float("nan"))

    assert caught.value.field == "sampling.temperature"
    assert await read_rows(machine, process) == []


@pytest.mark.parametrize(
    ("sampling", "field"),
    [
        ({"max_tokens": 0}, "sampling.max_tokens"),
        ({"temperature": 2.5}, "sampling.temperature"),
        ({"temperature": float("inf")}, "sampling.temperature"),
        ({"top_p": 0.0}, "sampling.top_p"),
        ({"top_p": 1.5}, "sampling.top_p"),
        ({"top_k": -1}, "sampling.top_k"),
        ({"seed": -1}, "sampling.seed"),
        ({"seed": 2**63}, "sampling.seed"),
        ({"stop": ("",)}, "sampling.stop[0]"),
        ({"stop": tuple(map(str, range(10_000)))}, "sampling.stop"),
    ],
)
async def test_every_bound_of_generate_is_kept(
    attach: Attach, sampling: dict[str, Any], field: str
) -> None:
    system, _ = await attach()

    with pytest.raises(E_ARG) as caught:
        await system.generate("hi", **sampling)

    assert caught.value.field == field


async def test_a_prompt_of_nothing_is_refused_and_leaves_no_row(
    attach: Attach, machine: Machine
) -> None:
    system, process = await attach()

    with pytest.raises(E_ARG) as caught:
        await system.generate([])

    assert caught.value.field == "messages"
    assert await read_rows(machine, process) == []


async def test_a_prompt_over_the_window_is_journaled_as_failed(
    attach: Attach, machine: Machine
) -> None:
    system, process = await attach()

    with pytest.raises(E_CONTEXT, match="the window holds 8192"):
        await system.generate("word " * 9000)

    (row,) = await read_rows(machine, process)
    assert row.state == "FAILED"


async def test_a_call_that_the_manifest_forbids_leaves_no_row(
    attach: Attach, machine: Machine
) -> None:
    system, process = await attach(Capabilities())

    with pytest.raises(E_PERM):
        await system.tool("clock")

    assert await read_rows(machine, process) == []


async def test_a_tool_that_refuses_its_arguments_leaves_no_row(
    attach: Attach, machine: Machine
) -> None:
    system, process = await attach()

    with pytest.raises(E_TOOL):
        await system.tool("calculator", expression=[1])

    assert await read_rows(machine, process) == []


async def test_a_tool_that_fails_is_journaled_as_failed(attach: Attach, machine: Machine) -> None:
    system, process = await attach()

    with pytest.raises(E_TOOL):
        await system.tool("calculator", expression="1 / 0")

    (row,) = await read_rows(machine, process)
    assert row.state == "FAILED"


async def test_a_raising_handler_is_a_reply_and_the_rest_runs_on(
    attach: Attach, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def explode(trap: object, call: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setitem(HANDLERS, "now", explode)
    system, _ = await attach()
    other, other_process = await attach()

    with pytest.raises(E_KERNEL):
        await system.now()

    assert await system.random() < 1
    assert await other.getpid() == other_process.pid


async def test_a_call_whose_ending_was_lost_goes_on_when_it_comes_again(
    attach: Attach, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def explode(trap: object, call: object) -> None:
        raise ZeroDivisionError

    system, process = await attach()
    with monkeypatch.context() as patch:
        patch.setitem(HANDLERS, "sleep", explode)
        with pytest.raises(E_KERNEL):
            await system.sleep(0.0)
    system._root.next_seq = 0

    await system.sleep(0.0)

    assert [row.state for row in await read_rows(machine, process)] == ["DONE"]


async def test_a_tools_arguments_are_decoded_once(attach: Attach, machine: Machine) -> None:
    decoded: list[str] = []

    class CountingRegistry(Registry):
        def decode(self, name: str, arguments_json: str) -> msgspec.Struct:
            decoded.append(name)
            return super().decode(name, arguments_json)

    machine.tools = CountingRegistry(BUILTIN_TOOLS)
    system, _ = await attach()

    assert await system.tool("calculator", expression="1 + 1") == "2"

    assert decoded == ["calculator"]


async def test_an_app_that_no_longer_waits_ends_the_generation(
    attach: Attach, machine: Machine
) -> None:
    system, process = await attach()

    with anyio.move_on_after(0.05):
        await system.generate(SLOW)
    await system.getpid()

    assert process.in_flight == {}
    (row,) = await read_rows(machine, process)
    assert row.state == "CANCELLED"


async def test_a_cancelled_generation_brings_its_partial_text(
    attach: Attach, machine: Machine
) -> None:
    system, process = await attach()
    started = anyio.Event()
    caught: list[E_CANCELLED] = []

    async def run() -> None:
        try:
            await system.generate(SLOW, on_text=lambda text: started.set())
        except E_CANCELLED as error:
            caught.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await started.wait()
        for scope in process.in_flight.values():
            scope.cancel()

    assert caught[0].partial


async def test_a_replay_answers_from_the_journal(attach: Attach, machine: Machine) -> None:
    system, process = await attach()
    first = [await system.random(), await system.now()]
    rows = await read_rows(machine, process)

    process.journaled = {(row.strand, row.seq): row for row in rows}
    process.next_seq = {}
    again, _ = await attach(again=process)

    assert [await again.random(), await again.now()] == first
    assert len(await read_rows(machine, process)) == 2


async def test_a_replay_raises_the_error_that_was(attach: Attach, machine: Machine) -> None:
    system, process = await attach()
    with pytest.raises(E_TOOL) as first:
        await system.tool("calculator", expression="1 / 0")
    rows = await read_rows(machine, process)

    process.journaled = {(row.strand, row.seq): row for row in rows}
    process.next_seq = {}
    again, _ = await attach(again=process)
    with pytest.raises(E_TOOL) as second:
        await again.tool("calculator", expression="1 / 0")

    assert str(first.value) == str(second.value)


async def test_a_replay_that_asks_for_something_else_is_named(
    attach: Attach, machine: Machine
) -> None:
    system, process = await attach()
    await system.random()
    rows = await read_rows(machine, process)

    process.journaled = {(row.strand, row.seq): row for row in rows}
    process.next_seq = {}
    again, _ = await attach(again=process)

    with pytest.raises(E_NONDETERMINISM, match="0:0 was 'random'"):
        await again.now()


async def test_the_same_call_draws_the_same_seed_after_a_restart(
    attach: Attach, machine: Machine
) -> None:
    _, process = await attach()
    _, other = await attach()

    assert process.seed("0", 1) == process.seed("0", 1)
    assert len({process.seed("0", 1), process.seed("0", 2), other.seed("0", 1)}) == 3


async def test_remembered_notes_are_recalled(attach: Attach) -> None:
    system, _ = await attach()

    await system.remember("my cat is called Miso", kind="turn", role="user")

    (note,) = await system.recall("what is my cat called?")
    assert note.text == "my cat is called Miso"


async def test_gathered_branches_have_strands_of_their_own(
    attach: Attach, machine: Machine
) -> None:
    system, process = await attach()

    texts = await system.gather(system.tool("clock"), system.tool("calculator", expression="2"))

    assert texts[1] == "2"
    rows = await read_rows(machine, process)
    assert {(row.strand, row.seq) for row in rows} == {("0.1", 0), ("0.2", 0)}


async def test_a_context_keeps_what_was_said_and_runs_tools(
    attach: Attach, machine: Machine, tmp_path: Path
) -> None:
    system, _ = await attach()
    context = await system.context(system="be brief")

    answer = await context.respond(
        '!tool calculator {"expression": "17 * 23"}', tools=["calculator"]
    )

    assert answer == "calculator: 391"
    roles = [message.role for message in await context.messages()]
    assert roles == ["system", "user", "assistant", "tool", "assistant"]


def test_a_call_has_one_digest_however_it_is_built() -> None:
    from llmos.kernel.journal import digest_call

    assert digest_call(Now()) == digest_call(Now())
    assert digest_call(Generate()) == digest_call(Generate(sampling=Sampling()))
    assert digest_call(Generate()) != digest_call(Generate(model="demo"))


async def test_a_full_disk_is_an_error_reply_and_the_kernel_goes_on(
    attach: Attach, machine: Machine
) -> None:
    def limit_pages(num_more: int) -> Callable[[Connection], None]:
        def limit(connection: Connection) -> None:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + num_more}")

        return limit

    system, process = await attach()
    await machine.db.write(limit_pages(0))

    with pytest.raises(E_STORAGE):
        await system.print("x" * 200_000)
    assert await system.getpid() == process.pid
    await machine.db.write(limit_pages(1000))

    await system.print("room again")
    assert "room again" in await read_output(machine.db, process.pid)
