"""The echo driver: what the other tests rely on."""

import contextlib

import anyio
import pytest

from llmos.kernel.drivers.driver import Finished, GenerationJob, TextDelta
from llmos.kernel.drivers.echo import EchoDriver
from llmos.syscalls.errors import E_ARG, E_CONTEXT
from llmos.syscalls.types import Message, Sampling, ToolCall

pytestmark = pytest.mark.anyio


async def answer(
    content: str, *, sampling: Sampling | None = None, role: str = "user", name: str = ""
) -> tuple[list[str], Finished]:
    message = Message(role, content, name=name)  # type: ignore[arg-type]
    deltas: list[str] = []
    async for event in EchoDriver().generate(
        GenerationJob((message,), sampling=sampling or Sampling())
    ):
        if isinstance(event, Finished):
            return deltas, event
        deltas.append(event.text)
    raise AssertionError("no Finished")


async def test_it_answers_with_the_same_text_word_by_word() -> None:
    deltas, finished = await answer("Hello  there,\nworld ")

    assert deltas == ["Hello", "  there,", "\nworld", " "]
    assert finished.text == "Hello  there,\nworld "
    assert finished.finish_reason == "stop"
    assert (finished.usage.prompt_tokens, finished.usage.completion_tokens) == (3, 4)


async def test_max_tokens_counts_words() -> None:
    _, finished = await answer("one two three", sampling=Sampling(max_tokens=2))

    assert (finished.text, finished.finish_reason) == ("one two", "length")


async def test_the_text_ends_before_the_first_stop_string() -> None:
    _, finished = await answer("one two three", sampling=Sampling(stop=("three", "two")))

    assert (finished.text, finished.finish_reason) == ("one ", "stop")


async def test_a_tool_line_becomes_a_tool_call() -> None:
    deltas, finished = await answer('!tool clock {"zone": "UTC"}')

    assert deltas == []
    assert finished.tool_calls == (ToolCall("clock", '{"zone": "UTC"}', "call_0"),)
    assert finished.finish_reason == "tool_calls"


async def test_a_tool_message_is_answered_with_its_result() -> None:
    _, finished = await answer("12:00", role="tool", name="clock")

    assert finished.text == "clock: 12:00"


async def test_a_paused_process_waits_and_goes_on_when_resumed() -> None:
    driver = EchoDriver()
    driver.pause(7)
    seen: list[object] = []

    async def read() -> None:
        async for event in driver.generate(GenerationJob((Message("user", "hi"),), pid=7)):
            seen.append(event)

    async with anyio.create_task_group() as group:
        group.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        assert seen == []
        driver.resume(7)

    assert seen[0] == TextDelta("hi", 1)


async def test_a_slow_answer_can_be_closed_midway() -> None:
    job = GenerationJob((Message("user", "!slow 1 a b c"),))
    async with contextlib.aclosing(EchoDriver().generate(job)) as events:
        first = await anext(events)

    assert first == TextDelta("a", 1)


async def test_a_prompt_past_the_window_is_refused_with_both_counts() -> None:
    job = GenerationJob((Message("user", "a b c"),))

    with pytest.raises(E_CONTEXT, match=r"3 tokens.*3"):
        await anext(EchoDriver(max_model_len=3).generate(job))


async def test_no_messages_is_an_argument_error() -> None:
    with pytest.raises(E_ARG):
        await anext(EchoDriver().generate(GenerationJob(())))
