"""`generate`: bounds of tokens, contexts, tools, and text that is shown as it comes."""

import anyio
import msgspec
import pytest

from llmos.kernel.capability import Capabilities
from llmos.kernel.drivers.echo import EchoDriver
from llmos.kernel.handlers.generation import announce_load
from llmos.kernel.machine import Machine
from llmos.kernel.models import Model
from llmos.kernel.process import Process
from llmos.kernel.protocol import Notice, Output
from llmos.kernel.terminal import Terminal
from llmos.memory.journal import read_output
from llmos.syscalls.client import System
from llmos.syscalls.errors import E_ARG, E_LIMIT, E_TOOL
from llmos.syscalls.types import Message

from .conftest import EVERYTHING, Attach, read_rows

pytestmark = pytest.mark.anyio
TEN_WORDS = "a b c d e f g h i j"


def with_budget(max_tokens: int) -> Capabilities:
    """Everything, but so many tokens in all."""
    rule = msgspec.structs.replace(EVERYTHING.generate, max_tokens=max_tokens)
    return msgspec.structs.replace(EVERYTHING, generate=rule)


async def cancel_after_words(system: System, process: Process, num_words: int) -> None:
    """Cancel a slow generation that is shown once the person has seen so many words."""
    async with anyio.create_task_group() as tasks:

        async def generate() -> None:
            await system.generate("!slow 20 " + "word " * 1000, show=True)

        tasks.start_soon(generate)
        for _ in range(num_words):
            await process.terminal.next_event()
        tasks.cancel_scope.cancel()
    await system.getpid()


async def test_a_generation_that_names_no_bound_gets_the_kernels(
    attach: Attach, machine: Machine
) -> None:
    system, _ = await attach()

    answer = await system.generate("word " * 1000)

    assert answer.usage.completion_tokens == machine.config.max_tokens_default
    assert answer.finish_reason == "length"


async def test_a_process_makes_no_more_tokens_than_it_may(attach: Attach) -> None:
    system, process = await attach(with_budget(12))

    first, second = await system.generate(TEN_WORDS), await system.generate(TEN_WORDS)

    assert (first.usage.completion_tokens, second.usage.completion_tokens) == (10, 2)
    assert (second.text, second.finish_reason) == ("a b", "length")
    assert process.completion_tokens == 12
    with pytest.raises(E_LIMIT):
        await system.generate("one more")


async def test_more_branches_than_the_kernel_takes_at_once_are_all_answered(attach: Attach) -> None:
    system, _ = await attach()

    answers = await system.gather(*(system.generate(f"{n}") for n in range(300)))

    assert [answer.text for answer in answers] == [str(n) for n in range(300)]


async def test_used_up_tokens_are_journaled_so_that_a_replay_sees_them_used_up(
    attach: Attach, machine: Machine
) -> None:
    system, process = await attach(with_budget(10))
    await system.generate(TEN_WORDS)
    with pytest.raises(E_LIMIT, match=r"all of the 10 tokens of generate\.max_tokens"):
        await system.generate("one more")
    rows = await read_rows(machine, process)

    process.journaled = {(row.strand, row.seq): row for row in rows}
    process.next_seq, process.completion_tokens = {}, 0
    again, _ = await attach(again=process)

    assert (await again.generate(TEN_WORDS)).text == TEN_WORDS
    with pytest.raises(E_LIMIT):
        await again.generate("one more")


async def test_an_empty_context_is_an_outcome_for_it_may_be_filled_later(
    attach: Attach, machine: Machine
) -> None:
    system, process = await attach()
    context = await system.context()
    with pytest.raises(E_ARG):
        await system.generate([], context=context.number)
    await context.user("now there is something")
    rows = await read_rows(machine, process)

    process.journaled = {(row.strand, row.seq): row for row in rows}
    process.next_seq = {}
    again, _ = await attach(again=process)
    await again.context()

    with pytest.raises(E_ARG):
        await again.generate([], context=context.number)


async def test_a_seed_that_is_named_is_used_and_another_is_drawn(attach: Attach) -> None:
    system, process = await attach()

    answers = [await system.generate("hi", seed=5), await system.generate("hi")]

    assert [answer.seed for answer in answers] == [5, process.seed("0", 1)]


async def test_the_model_sees_the_context_before_the_prompt(attach: Attach) -> None:
    system, _ = await attach()
    context = await system.context(system="one two three")
    await context.user("four five")

    answer = await system.generate("six", context=context.number)

    assert answer.usage.prompt_tokens == 6
    assert len(await context.messages()) == 2


async def test_a_context_alone_is_enough_to_answer(attach: Attach) -> None:
    system, _ = await attach()
    context = await system.context()
    await context.user("hello")

    assert (await system.generate([], context=context.number)).text == "hello"


async def test_a_context_of_another_process_is_refused(attach: Attach, machine: Machine) -> None:
    owner, _ = await attach()
    stranger, process = await attach()
    context = await owner.context(system="secret")

    with pytest.raises(E_ARG) as caught:
        await stranger.generate("what is it?", context=context.number)

    assert caught.value.field == "context"
    assert await read_rows(machine, process) == []


async def test_an_unknown_tool_is_named_before_anything_runs(
    attach: Attach, machine: Machine
) -> None:
    system, process = await attach()

    with pytest.raises(E_TOOL, match="did you mean clock"):
        await system.generate("hi", tools=["clok"])

    assert await read_rows(machine, process) == []


async def test_a_wish_for_a_tool_is_an_answer_and_not_a_call(attach: Attach) -> None:
    system, process = await attach()
    process.terminal = Terminal()

    answer = await system.generate("!tool clock {}", tools=["clock"])

    assert [(wish.name, wish.arguments) for wish in answer.tool_calls] == [("clock", "{}")]
    assert answer.finish_reason == "tool_calls"


async def test_text_that_is_shown_reaches_the_person_and_the_output(
    attach: Attach, machine: Machine
) -> None:
    system, process = await attach()
    process.terminal = Terminal()

    await system.generate("a b", show=True)

    assert await process.terminal.next_event() == Output(process.pid, "a")
    assert await process.terminal.next_event() == Output(process.pid, " b")
    assert await read_output(machine.db, process.pid) == "a b"
    assert process.num_printed_chars == 3


async def test_text_that_is_not_shown_is_no_output(attach: Attach, machine: Machine) -> None:
    system, process = await attach()

    await system.generate("a b")

    assert await read_output(machine.db, process.pid) == ""
    assert process.num_printed_chars == 0


async def test_what_a_cancelled_generation_has_shown_is_output_and_counts(
    attach: Attach, machine: Machine
) -> None:
    system, process = await attach()
    process.terminal = Terminal()

    await cancel_after_words(system, process, 3)

    await machine.db.flush()
    output = await read_output(machine.db, process.pid)
    assert output.split() == ["word"] * process.completion_tokens
    assert process.completion_tokens >= 3
    assert process.num_printed_chars == len(output)
    assert process.num_generating == 0


async def test_a_model_that_is_there_is_not_announced(attach: Attach) -> None:
    system, process = await attach()
    process.terminal = Terminal()

    await system.generate([Message("user", "hi")])
    process.terminal.close()

    assert not isinstance(await process.terminal.next_event(), Notice)


async def test_a_load_is_announced_once_however_many_wait_for_it(attach: Attach) -> None:
    _, process = await attach()
    process.terminal = Terminal()
    model = Model(EchoDriver())

    for _ in range(8):
        announce_load(process, "large", model)()
    process.terminal.close()

    assert await process.terminal.next_event() == Notice("loading model large")
    assert await process.terminal.next_event() is None


async def test_generations_side_by_side_share_one_budget(attach: Attach) -> None:
    system, process = await attach(with_budget(12))

    async def generate() -> int:
        try:
            answer = await system.generate("!slow 5 " + TEN_WORDS, max_tokens=8)
        except E_LIMIT:
            return 0
        return answer.usage.completion_tokens

    counts = await system.gather(generate(), generate(), generate())

    assert counts == [8, 4, 0]
    assert process.completion_tokens == 12
