"""Interrupted calls of tools: each effect keeps its promise, and every answer is the same again.

A call is interrupted here as a dead kernel leaves it: its INTENT is durable, its ending is not.
"""

from collections.abc import Callable

import msgspec
import pytest

from llmos.kernel.capability import Capabilities, MemoryRule
from llmos.kernel.journal import digest_call
from llmos.kernel.machine import Machine
from llmos.kernel.process import Process
from llmos.kernel.protocol import ToolRan
from llmos.kernel.terminal import Terminal
from llmos.kernel.tools.builtin import BUILTIN_TOOLS
from llmos.kernel.tools.registry import Registry
from llmos.kernel.tools.tool import (
    Effect,
    Happened,
    NotHappened,
    Reconciled,
    Tool,
    ToolContext,
    Unknown,
    Write,
    tool,
)
from llmos.memory.db import Connection
from llmos.memory.journal import append_output, read_output
from llmos.syscalls import tool as calls
from llmos.syscalls.errors import E_IN_DOUBT, E_PERM, E_TOOL
from llmos.syscalls.table import TABLE

from .conftest import EVERYTHING, Attach, begin_replay, read_rows

pytestmark = pytest.mark.anyio
ARGUMENTS = '{"text": "hello"}'


class Outbox:
    """The world outside: what was sent, by idempotency key, and every attempt."""

    def __init__(self) -> None:
        self.sent: dict[str, str] = {}
        self.attempts: list[str] = []

    def make(self, effect: Effect, reconcile: Callable[..., Reconciled] | None = None) -> Tool:
        """A tool that sends."""

        @tool(effect, reconcile=reconcile)
        def send(context: ToolContext, text: str) -> str:
            """Send a text."""
            self.attempts.append(context.key)
            self.sent[context.key] = text
            return f"sent {text}"

        return send

    def look_up(self, context: ToolContext, text: str) -> Reconciled:
        """What an honest service knows of a key."""
        if self.sent.get(context.key) == text:
            return Happened(f"sent {text}")
        return NotHappened()


@pytest.fixture
def outbox() -> Outbox:
    return Outbox()


async def interrupt(machine: Machine, process: Process) -> None:
    """Leave the process's first call as a kernel that died in it does."""
    call = calls.Tool("send", ARGUMENTS)
    effect = machine.tools.effect("send")
    entry = machine.journal.entry(process, "0", 0, TABLE["tool"], effect, digest_call(call))
    await entry.begin(durable=True)
    await begin_replay(machine, process)


async def test_an_idempotent_call_is_made_again_with_the_same_key(
    attach: Attach, machine: Machine, outbox: Outbox
) -> None:
    machine.tools = Registry((outbox.make("idempotent"),))
    _, process = await attach()
    await interrupt(machine, process)
    outbox.attempts.append(process.call_key("0", 0))  # the first one, before the kernel died
    again, _ = await attach(again=process)

    assert await again.tool("send", text="hello") == "sent hello"

    assert len(outbox.attempts) == 2
    assert set(outbox.attempts) == set(outbox.sent)
    assert [row.state for row in await read_rows(machine, process)] == ["DONE"]


async def test_every_call_has_a_key_of_its_own(
    attach: Attach, machine: Machine, outbox: Outbox
) -> None:
    machine.tools = Registry((outbox.make("idempotent"),))
    system, _ = await attach()
    other, _ = await attach()

    for each in (system, other):
        await each.tool("send", text="hello")
        await each.gather(each.tool("send", text="hello"), each.tool("send", text="hello"))

    assert len(set(outbox.attempts)) == 6


async def test_a_once_call_that_nobody_can_look_up_is_in_doubt_and_stays_so(
    attach: Attach, machine: Machine, outbox: Outbox
) -> None:
    machine.tools = Registry((outbox.make("once"),))
    _, process = await attach()
    await interrupt(machine, process)
    errors = []

    for _ in range(2):
        system, _ = await attach(again=process)
        with pytest.raises(E_IN_DOUBT, match=r"step 0:0 was interrupted; .*send cannot tell") as e:
            await system.tool("send", text="hello")
        errors.append(str(e.value))
        assert [row.state for row in await read_rows(machine, process)] == ["IN_DOUBT"]
        await begin_replay(machine, process)

    assert errors[0] == errors[1]
    assert outbox.attempts == []


async def test_a_once_call_that_happened_has_its_result_and_is_not_made_again(
    attach: Attach, machine: Machine, outbox: Outbox
) -> None:
    machine.tools = Registry((outbox.make("once", outbox.look_up),))
    _, process = await attach()
    await interrupt(machine, process)
    outbox.sent[process.call_key("0", 0)] = "hello"
    again, _ = await attach(again=process)

    assert await again.tool("send", text="hello") == "sent hello"

    assert outbox.attempts == []
    assert [row.state for row in await read_rows(machine, process)] == ["DONE"]


async def test_a_once_call_that_did_not_happen_is_made(
    attach: Attach, machine: Machine, outbox: Outbox
) -> None:
    machine.tools = Registry((outbox.make("once", outbox.look_up),))
    _, process = await attach()
    await interrupt(machine, process)
    again, _ = await attach(again=process)

    assert await again.tool("send", text="hello") == "sent hello"

    assert outbox.attempts == [process.call_key("0", 0)]


def fail(context: ToolContext, text: str) -> Reconciled:
    raise E_TOOL("the service is down")


@pytest.mark.parametrize(
    ("look_up", "reason"),
    [
        (lambda context, text: Unknown("too long ago"), "too long ago"),
        (fail, "the service is down"),
    ],
)
async def test_a_once_call_that_cannot_be_told_is_in_doubt_with_the_reason(
    attach: Attach,
    machine: Machine,
    outbox: Outbox,
    look_up: Callable[..., Reconciled],
    reason: str,
) -> None:
    machine.tools = Registry((outbox.make("once", look_up),))
    _, process = await attach()
    await interrupt(machine, process)
    again, _ = await attach(again=process)

    with pytest.raises(E_IN_DOUBT, match=rf"is not known: {reason}; fix: look"):
        await again.tool("send", text="hello")

    assert outbox.attempts == []


async def test_a_once_call_of_a_tool_that_is_gone_is_in_doubt(
    attach: Attach, machine: Machine, outbox: Outbox
) -> None:
    machine.tools = Registry((outbox.make("once", outbox.look_up),))
    _, process = await attach()
    await interrupt(machine, process)
    machine.tools = Registry(BUILTIN_TOOLS)
    again, _ = await attach(again=process)

    with pytest.raises(E_IN_DOUBT, match="cannot be asked: unknown tool 'send'"):
        await again.tool("send", text="hello")


async def test_a_once_call_that_was_not_interrupted_is_not_looked_up(
    attach: Attach, machine: Machine, outbox: Outbox
) -> None:
    def refuse(context: ToolContext, text: str) -> Reconciled:
        raise AssertionError

    machine.tools = Registry((outbox.make("once", refuse),))
    system, _ = await attach()

    assert await system.tool("send", text="hello") == "sent hello"


async def test_what_a_transactional_tool_writes_comes_with_its_row(
    attach: Attach, machine: Machine
) -> None:
    @tool("transactional")
    def note(context: ToolContext, text: str) -> Write:
        """Write to the process's output."""

        def write(connection: Connection) -> str:
            return f"at {append_output(connection, context.pid, text)}"

        return write

    machine.tools = Registry((note,))
    system, process = await attach()
    process.terminal = Terminal()

    assert [await system.tool("note", text=text) for text in ("one", "two")] == ["at 0", "at 3"]

    states = [(row.effect, row.state) for row in await read_rows(machine, process)]
    assert states == [("transactional", "DONE")] * 2
    told = await process.terminal.next_event()
    assert isinstance(told, ToolRan)
    assert (told.text, told.failed) == ("at 0", False)
    await begin_replay(machine, process)
    again, _ = await attach(again=process)
    assert await again.tool("note", text="one") == "at 0"
    assert await read_output(machine.db, process.pid) == "onetwo"


async def test_a_write_that_fails_leaves_nothing_and_a_failed_row(
    attach: Attach, machine: Machine
) -> None:
    @tool("transactional")
    def note(context: ToolContext) -> Write:
        """Write, and fail."""

        def write(connection: Connection) -> str:
            append_output(connection, context.pid, "half")
            raise E_TOOL("on second thought")

        return write

    machine.tools = Registry((note,))
    system, process = await attach()

    with pytest.raises(E_TOOL, match="second thought"):
        await system.tool("note")

    assert await read_output(machine.db, process.pid) == ""
    assert [row.state for row in await read_rows(machine, process)] == ["FAILED"]


async def test_a_model_remembers_by_a_tool_what_an_app_recalls(
    attach: Attach, machine: Machine
) -> None:
    system, process = await attach()
    context = await system.context()

    await context.respond('!tool remember {"text": "my cat is called Miso"}', tools=["remember"])

    (found,) = await system.recall("what is the cat called?")
    assert (found.text, found.space) == ("my cat is called Miso", "notes")
    await begin_replay(machine, process)
    again, _ = await attach(again=process)
    same = await again.context()
    await same.respond('!tool remember {"text": "my cat is called Miso"}', tools=["remember"])
    assert len(await again.recall("what is the cat called?")) == 1


async def test_remembering_by_a_tool_needs_a_space_to_write_to(
    attach: Attach, machine: Machine
) -> None:
    system, _ = await attach(msgspec.structs.replace(EVERYTHING, memory=MemoryRule(("notes",))))

    with pytest.raises(E_PERM, match=r"add a space to \[capabilities\] memory\.write"):
        await system.tool("remember", text="anything")
    with pytest.raises(E_PERM, match="tools"):
        await (await attach(Capabilities()))[0].tool("remember", text="anything")


async def test_nothing_cannot_be_remembered(attach: Attach, machine: Machine) -> None:
    machine.tools = Registry(BUILTIN_TOOLS)
    system, _ = await attach()

    with pytest.raises(E_TOOL, match="nothing to remember"):
        await system.tool("remember", text="")
