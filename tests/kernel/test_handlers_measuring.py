"""`score` and `embed`, and the parts of `generate` that make more than one plain answer."""

import math
from typing import Any

import msgspec
import pytest

from llmos.kernel.capability import GenerateRule
from llmos.kernel.handlers.generation import MAX_SCORES, derive_seed
from llmos.kernel.machine import Machine
from llmos.syscalls.errors import E_ARG, E_LIMIT, E_MODEL, E_PERM
from llmos.syscalls.types import Message

from .conftest import EVERYTHING, Attach, read_rows

pytestmark = pytest.mark.anyio


class Pair(msgspec.Struct):
    """Something to answer."""

    a: int
    b: str


async def test_scores_are_sums_of_their_tokens(attach: Attach) -> None:
    system, process = await attach()

    first, second = await system.score("which?", ["one two", "three"])

    assert first.logprob == sum(token.logprob for token in first.tokens)
    assert [token.text for token in first.tokens] == ["one", " two"]
    assert second.logprob < 0
    assert process.prompt_tokens == 4


async def test_the_context_comes_before_the_prompt(attach: Attach) -> None:
    system, process = await attach()
    context = await system.context(system="one two")

    await system.score("three", ["four"], context=context.number)

    assert process.prompt_tokens == 4


async def test_vectors_have_length_1_and_equal_texts_have_equal_ones(attach: Attach) -> None:
    system, _ = await attach()

    one, other, same = await system.embed(["a cat", "a dog and more", "a cat"])

    assert math.hypot(*one) == pytest.approx(1.0)
    assert one == same != other


@pytest.mark.parametrize("texts", [[""], ["x"] * 65])
async def test_texts_have_bounds(attach: Attach, machine: Machine, texts: list[str]) -> None:
    system, process = await attach()

    with pytest.raises(E_ARG) as caught:
        await system.score("?", texts)

    assert str(caught.value.field).startswith("continuations")
    assert await read_rows(machine, process) == []


async def test_no_message_is_no_question(attach: Attach) -> None:
    system, _ = await attach()

    with pytest.raises(E_ARG, match="no message"):
        await system.score([], ["x"])


async def test_they_need_the_capability(attach: Attach) -> None:
    system, _ = await attach(msgspec.structs.replace(EVERYTHING, generate=GenerateRule(("other",))))

    with pytest.raises(E_PERM):
        await system.score("?", ["x"])
    with pytest.raises(E_PERM):
        await system.embed(["x"])


async def test_a_replay_answers_them_from_the_journal_and_counts_their_tokens(
    attach: Attach, machine: Machine
) -> None:
    system, process = await attach()
    scores, vectors = await system.score("?", ["x y"]), await system.embed(["x y"])
    process.journaled = {(row.strand, row.seq): row for row in await read_rows(machine, process)}
    process.next_seq = {}

    again, _ = await attach(again=process)

    assert await again.score("?", ["x y"]) == scores
    assert await again.embed(["x y"]) == vectors


async def test_branches_have_seeds_of_their_own(attach: Attach) -> None:
    system, process = await attach()

    answer = await system.generate("one two", n=3, seed=5)

    assert [choice.text for choice in answer.choices] == ["one two"] * 3
    assert [choice.seed for choice in answer.choices] == [5, derive_seed(5, 1), derive_seed(5, 2)]
    assert len({choice.seed for choice in answer.choices}) == 3
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 6)
    assert process.num_reserved_tokens == 0


async def test_branches_share_what_the_process_may_make(attach: Attach) -> None:
    rule = msgspec.structs.replace(EVERYTHING.generate, max_tokens=7)
    system, _ = await attach(msgspec.structs.replace(EVERYTHING, generate=rule))

    answer = await system.generate("a b c d", n=3)

    assert [choice.text for choice in answer.choices] == ["a b"] * 3
    with pytest.raises(E_LIMIT):
        await system.generate("a b c d", n=2)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"n": 2, "show": True}, "n"),
        ({"n": 2, "on_text": print}, "n"),
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "clok", "tools": ["clock"]}, "tool_choice"),
        ({"tool_choice": "clock", "tools": ["clock"], "regex": "a"}, "tool_choice"),
        ({"tool_choice": ""}, "tool_choice"),
        ({"regex": ""}, "grammar.text"),
        ({"logprobs": 21}, "sampling.logprobs"),
        ({"logprobs": 20, "max_tokens": MAX_SCORES}, "sampling.logprobs"),
    ],
)
async def test_what_contradicts_itself_is_refused_and_leaves_no_row(
    attach: Attach, machine: Machine, options: dict[str, Any], field: str
) -> None:
    system, process = await attach()

    with pytest.raises(E_ARG) as caught:
        await system.generate("hi", **options)

    assert caught.value.field == field
    assert await read_rows(machine, process) == []


async def test_an_object_comes_back_from_the_kernel(attach: Attach) -> None:
    system, _ = await attach()

    answer = await system.generate('{"a": 1, "b": "x"}', schema=Pair)

    assert answer.value == Pair(1, "x")
    with pytest.raises(E_MODEL):
        await system.generate("no object", schema=Pair)


async def test_a_context_answers_with_the_object_alone(attach: Attach) -> None:
    system, _ = await attach()
    context = await system.context(system="be brief")

    assert await context.generate('{"a": 1, "b": "x"}', schema=Pair) == Pair(1, "x")
    assert (await context.generate("plain")).text == "plain"
    assert await context.messages() == (Message("system", "be brief"),)
