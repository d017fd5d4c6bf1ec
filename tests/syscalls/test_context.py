"""A conversation: tools run until there is text, and what was said is stored once."""

import pytest

from llmos.syscalls.client import MAX_TOOL_ROUNDS, Context, System
from llmos.syscalls.errors import E_MODEL, E_TOOL
from llmos.syscalls.generate import Generate, Generation
from llmos.syscalls.memory import (
    ContextAppend,
    ContextCreate,
    ContextCreated,
    ContextLength,
    ContextMessages,
    ContextRead,
)
from llmos.syscalls.tasks import running
from llmos.syscalls.tool import Tool, ToolResult
from llmos.syscalls.types import Message, ToolCall, Usage

from .conftest import ScriptedKernel

pytestmark = pytest.mark.anyio
WISH = ToolCall("clock", "{}", "call_0")
USAGE = Usage(1, 0, 1)


class Conversation:
    """A kernel that keeps one context and answers generations from a list."""

    def __init__(self, *answers: str | tuple[ToolCall, ...]) -> None:
        self.answers = list(answers)
        self.asked: list[Generate] = []
        self.stored: list[Message] = []

    def __call__(
        self, call: Generate | Tool | ContextCreate | ContextAppend | ContextRead
    ) -> Generation | ToolResult | ContextCreated | ContextLength | ContextMessages:
        match call:
            case Generate():
                self.asked.append(call)
                return self.answer(self.answers.pop(0))
            case Tool(name="clock"):
                return ToolResult("noon")
            case Tool():
                raise E_TOOL("unknown tool")
            case ContextCreate():
                self.stored += call.messages
                return ContextCreated(3)
            case ContextAppend():
                self.stored += call.messages
                return ContextLength(len(self.stored))
            case ContextRead():
                return ContextMessages(tuple(self.stored))

    def answer(self, answer: str | tuple[ToolCall, ...]) -> Generation:
        if isinstance(answer, str):
            return Generation(answer, (), "stop", USAGE, "echo", 1)
        return Generation("", answer, "tool_calls", USAGE, "echo", 1)


async def respond(
    system: System, kernel: ScriptedKernel, script: Conversation, prompt: str | None = None
) -> str:
    async with running() as tasks:
        tasks.start_soon(kernel.serve, script)
        return await Context(system, 3).respond("when?", prompt=prompt, tools=["clock"])


async def test_a_context_starts_with_its_system_message(
    system: System, kernel: ScriptedKernel
) -> None:
    script = Conversation()

    async with running() as tasks:
        tasks.start_soon(kernel.serve, script)
        context = await system.context(system="be brief")
        await context.user("hello")

        assert context.number == 3
        assert await context.messages() == (Message("system", "be brief"), Message("user", "hello"))


async def test_an_answer_in_text_is_stored_with_the_question(
    system: System, kernel: ScriptedKernel
) -> None:
    script = Conversation("at noon")

    assert await respond(system, kernel, script) == "at noon"

    assert script.stored == [Message("user", "when?"), Message("assistant", "at noon")]
    assert [name for _, _, name in kernel.calls] == ["generate", "context_append"]
    assert (script.asked[0].context, script.asked[0].tools) == (3, ("clock",))


async def test_a_tool_is_run_and_its_result_is_shown_to_the_model(
    system: System, kernel: ScriptedKernel
) -> None:
    script = Conversation((WISH,), "at noon")

    assert await respond(system, kernel, script) == "at noon"

    call, result = script.asked[1].messages[1:]
    assert call == Message("assistant", "", (WISH,))
    assert result == Message("tool", "noon", name="clock", tool_call_id="call_0")
    assert script.stored == [*script.asked[1].messages, Message("assistant", "at noon")]


async def test_several_tools_of_one_answer_are_run_in_its_order(
    system: System, kernel: ScriptedKernel
) -> None:
    wishes = (WISH, ToolCall("clock", '{"timezone":"UTC"}', "call_1"))
    script = Conversation(wishes, "done")

    await respond(system, kernel, script)

    assert [message.tool_call_id for message in script.stored[2:4]] == ["call_0", "call_1"]


async def test_a_tool_that_fails_is_a_result_that_the_model_reads(
    system: System, kernel: ScriptedKernel
) -> None:
    script = Conversation((ToolCall("clok", "{}", "call_0"),), "sorry")

    assert await respond(system, kernel, script) == "sorry"

    assert script.asked[1].messages[-1].content == "error: unknown tool"


async def test_a_model_that_only_calls_tools_is_stopped_after_some_rounds(
    system: System, kernel: ScriptedKernel
) -> None:
    script = Conversation(*[(WISH,)] * (MAX_TOOL_ROUNDS + 5))

    assert await respond(system, kernel, script) == ""

    assert len(script.asked) == MAX_TOOL_ROUNDS + 1
    roles = [message.role for message in script.stored]
    assert roles == ["user", *["assistant", "tool"] * MAX_TOOL_ROUNDS, "assistant"]


async def test_a_prompt_is_what_the_model_sees_and_the_text_is_what_is_kept(
    system: System, kernel: ScriptedKernel
) -> None:
    script = Conversation("at noon")

    await respond(system, kernel, script, prompt="notes: ...\nwhen?")

    assert script.asked[0].messages == (Message("user", "notes: ...\nwhen?"),)
    assert script.stored[0] == Message("user", "when?")


async def test_a_generation_that_fails_stores_nothing(
    system: System, kernel: ScriptedKernel
) -> None:
    class Broken(Conversation):
        def answer(self, answer: str | tuple[ToolCall, ...]) -> Generation:
            raise E_MODEL("the executor died")

    script = Broken("at noon")

    with pytest.raises(E_MODEL):
        await respond(system, kernel, script)

    assert script.stored == []
