"""The echo driver: what the other tests rely on."""

import contextlib

import anyio
import msgspec
import pytest

from llmos.kernel.drivers.driver import (
    Emitted,
    Finished,
    GenerationJob,
    TextDelta,
    have_same_tokens,
)
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

    assert isinstance(seen[0], TextDelta)
    assert (seen[0].text, seen[0].num_tokens) == ("hi", 1)


async def test_a_slow_answer_can_be_closed_midway() -> None:
    job = GenerationJob((Message("user", "!slow 1 a b c"),))
    async with contextlib.aclosing(EchoDriver().generate(job)) as events:
        first = await anext(events)

    assert isinstance(first, TextDelta)
    assert (first.text, first.num_tokens) == ("a", 1)


async def test_a_prompt_past_the_window_is_refused_with_both_counts() -> None:
    job = GenerationJob((Message("user", "a b c"),))

    with pytest.raises(E_CONTEXT, match=r"3 tokens.*3"):
        await anext(EchoDriver(max_model_len=3).generate(job))


async def test_no_messages_is_an_argument_error() -> None:
    with pytest.raises(E_ARG):
        await anext(EchoDriver().generate(GenerationJob(())))


async def collect(job: GenerationJob) -> tuple[list[TextDelta], Finished]:
    *deltas, finished = [item async for item in EchoDriver().generate(job)]
    assert isinstance(finished, Finished)
    return [delta for delta in deltas if isinstance(delta, TextDelta)], finished


async def test_words_are_tokens_and_it_goes_on_after_any_of_them() -> None:
    job = GenerationJob((Message("user", "one two two three"),))
    whole, finished = await collect(job)
    tokens = [token for delta in whole for token in delta.tokens]

    for size in range(len(tokens) + 1):
        text = "".join(delta.text for delta in whole[:size])
        emitted = Emitted(tuple(tokens[:size]), text, whole[0].fingerprint)
        rest, end = await collect(msgspec.structs.replace(job, emitted=emitted))
        assert (rest, end) == (whole[size:], finished)
    assert tokens[1] == tokens[2]
    assert len(set(tokens)) == 3


def test_engines_whose_fingerprints_begin_alike_have_the_same_tokens() -> None:
    assert have_same_tokens("a-1", "a-2")
    assert have_same_tokens("a", "a")
    assert not have_same_tokens("a-1", "b-1")
