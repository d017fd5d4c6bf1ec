"""A generation that goes on after the tokens that another executor gave for it."""

from pathlib import Path

import msgspec
import pytest

from llmos.kernel.executor.engine import Engine
from llmos.kernel.executor.protocol import Done, Failed, Generate, Load, Token
from llmos.syscalls.types import Grammar, Message, Sampling, ToolSpec

from .conftest import run

GREEDY = Sampling(max_tokens=20, temperature=0.0)
HOT = Sampling(max_tokens=20, temperature=1.0, top_p=0.95, seed=42)
PENALIZED = msgspec.structs.replace(
    HOT, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.3
)
TOOLS = (ToolSpec("clock", "Tells the time", "{}"),)
SAMPLINGS = pytest.mark.parametrize("sampling", [GREEDY, HOT, PENALIZED])


def ask(sampling: Sampling, *, tools: tuple[ToolSpec, ...] = ()) -> Generate:
    return Generate(1, (Message("user", "Grüße, 世界! 🦊"),), tools, sampling)


def answer(engine: Engine, request: Generate) -> tuple[list[Token], Done]:
    *tokens, done = run(engine, request)
    assert isinstance(done, Done)
    return [one for one in tokens if isinstance(one, Token)], done


def go_on(engine: Engine, request: Generate, emitted: tuple[int, ...]) -> tuple[list[Token], Done]:
    return answer(engine, msgspec.structs.replace(request, emitted=emitted))


def describe(done: Done) -> tuple[object, ...]:
    """A result, but for what was cached."""
    tokens = (done.usage.prompt_tokens, done.usage.completion_tokens)
    return done.text, done.tokens, done.tool_calls, done.finish_reason, tokens


@SAMPLINGS
def test_it_ends_like_one_that_was_never_interrupted(
    engine: Engine, qwen3: Path, sampling: Sampling
) -> None:
    request = ask(sampling)
    _, whole = answer(engine, request)
    other = Engine(Load(str(qwen3)), num_pages=64)

    ends = [go_on(other, request, whole.tokens[:size])[1] for size in range(len(whole.tokens))]

    assert {describe(end) for end in ends} == {describe(whole)}


@SAMPLINGS
def test_only_the_text_that_is_new_is_sent(engine: Engine, sampling: Sampling) -> None:
    request = ask(sampling)
    before, whole = answer(engine, request)
    sent, text = list[int](), ""

    for token in before[:-1]:
        sent, text = [*sent, *token.tokens], text + token.text
        after, _ = go_on(engine, request, tuple(sent))
        assert text + "".join(one.text for one in after) == whole.text


@SAMPLINGS
def test_a_stop_string_is_found_wherever_the_border_is(engine: Engine, sampling: Sampling) -> None:
    _, free = answer(engine, ask(sampling))
    stop = free.text[len(free.text) // 2 :][:6]
    request = ask(msgspec.structs.replace(sampling, stop=(stop,)))
    _, whole = answer(engine, request)

    ends = [go_on(engine, request, whole.tokens[:size])[1] for size in range(len(whole.tokens))]

    assert whole.text == free.text[: free.text.index(stop)]
    assert {describe(end) for end in ends} == {describe(whole)}


def test_text_that_may_hold_calls_goes_on_as_well(engine: Engine) -> None:
    request = ask(HOT, tools=TOOLS)
    _, whole = answer(engine, request)

    ends = [go_on(engine, request, whole.tokens[:size])[1] for size in range(len(whole.tokens))]

    assert {describe(end) for end in ends} == {describe(whole)}


def test_tokens_are_each_sent_once_and_in_order(engine: Engine) -> None:
    tokens, done = answer(engine, ask(HOT))

    sent = [one for token in tokens for one in token.tokens]

    assert sent == list(done.tokens[: len(sent)])
    assert [sum(len(one.tokens) for one in tokens[: at + 1]) for at in range(len(tokens))] == [
        token.num_tokens for token in tokens
    ]


@SAMPLINGS
@pytest.mark.parametrize("max_tokens", [20, 400])
def test_one_that_was_whole_already_is_told_without_a_step(
    engine: Engine, sampling: Sampling, max_tokens: int
) -> None:
    request = ask(msgspec.structs.replace(sampling, max_tokens=max_tokens))
    _, whole = answer(engine, request)
    num_steps = engine.collect_stats().num_steps

    tokens, again = go_on(engine, request, whole.tokens)

    assert (tokens, describe(again)) == ([], describe(whole))
    assert engine.collect_stats().num_steps == num_steps


def test_one_that_ended_at_a_stop_string_ends_there_again(engine: Engine) -> None:
    _, free = answer(engine, ask(HOT))
    request = ask(msgspec.structs.replace(HOT, stop=(free.text[8:12],)))
    _, whole = answer(engine, request)

    _, again = go_on(engine, request, whole.tokens)

    assert (describe(again), again.finish_reason) == (describe(whole), "stop")


@pytest.mark.parametrize("grammar", [Grammar("regex", "[ab]{5}"), Grammar("regex", "a+")])
def test_one_whose_grammar_is_complete_ends_there_again(engine: Engine, grammar: Grammar) -> None:
    request = msgspec.structs.replace(ask(HOT), grammar=grammar)
    _, whole = answer(engine, request)

    for size in range(len(whole.tokens) + 1):
        _, again = go_on(engine, request, whole.tokens[:size])
        assert describe(again) == describe(whole)


def test_tokens_that_do_not_fit_the_grammar_are_refused(engine: Engine) -> None:
    request = msgspec.structs.replace(ask(HOT), grammar=Grammar("regex", "[0-9]{5}"))
    _, free = answer(engine, ask(HOT))

    outputs = run(engine, msgspec.structs.replace(request, emitted=free.tokens[:5]))

    assert [one.error.code for one in outputs if isinstance(one, Failed)] == ["E_GRAMMAR"]
    assert not engine.has_work


def test_tokens_without_text_are_told_as_they_come(engine: Engine) -> None:
    call = msgspec.structs.replace(ask(HOT, tools=TOOLS), tool_choice="clock")

    tokens, whole = answer(engine, call)

    assert [one.text for one in tokens[:-1]] == [""] * (len(whole.tokens) - 1)
    assert [one.tokens for one in tokens] == [(token,) for token in whole.tokens]
