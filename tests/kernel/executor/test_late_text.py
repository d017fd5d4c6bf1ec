"""Text that is made while the next step runs is the text that is made at once."""

from pathlib import Path

import msgspec
import pytest

from llmos.kernel.executor.engine import Engine
from llmos.kernel.executor.protocol import Done, Failed, Generate, Load, Output, Token
from llmos.syscalls.types import Grammar, Message, Sampling

from .conftest import run

HOT = Sampling(max_tokens=40, temperature=1.0, seed=5)
TEXTS = [f"{number} tell me" for number in range(6)]


@pytest.fixture(scope="module")
def engines(qwen3: Path) -> tuple[Engine, Engine]:
    """One that tells at once, and one that tells late."""
    spec = Load(str(qwen3))
    return tuple(Engine(spec, num_pages=256, tells_late=late) for late in (False, True))  # type: ignore[return-value]


def make_requests(engine: Engine, stops: dict[int, str]) -> list[Generate]:
    requests = [
        Generate(
            number,
            (Message("user", text),),
            sampling=msgspec.structs.replace(
                HOT, seed=number, stop=(stops[number],) if number in stops else (), logprobs=1
            ),
        )
        for number, text in enumerate(TEXTS)
    ]
    grammar = Grammar("regex", "[a-z ]{30}")
    return [*requests, Generate(9, (Message("user", "x"),), sampling=HOT, grammar=grammar)]


def collect(outputs: list[Output]) -> dict[int, tuple[str, Done]]:
    """The text as it streamed, and the result, of each."""
    done = {one.id: one for one in outputs if isinstance(one, Done)}
    streamed = dict.fromkeys(done, "")
    for one in outputs:
        if isinstance(one, Token):
            streamed[one.id] += one.text
    return {number: (streamed[number], one) for number, one in done.items()}


def test_texts_ends_and_tokens_are_the_same(engines: tuple[Engine, Engine]) -> None:
    whole = collect(run(engines[0], *make_requests(engines[0], {})))
    stops = {number: whole[number][1].text[9:12] for number in (0, 2, 4)}

    at_once, late = (collect(run(one, *make_requests(one, stops))) for one in engines)

    assert {len(one.text) < len(whole[number][1].text) for number, (_, one) in late.items()} == {
        True,
        False,
    }
    assert {number: (text, *sum_up(one)) for number, (text, one) in late.items()} == {
        number: (text, *sum_up(one)) for number, (text, one) in at_once.items()
    }


def sum_up(done: Done) -> tuple[object, ...]:
    scored = tuple(one.chosen.token for one in done.logprobs)
    return done.text, done.tokens, done.finish_reason, scored


def test_only_the_late_one_has_text_left_after_a_step(engines: tuple[Engine, Engine]) -> None:
    for engine, has_text in zip(engines, (True, False), strict=True):
        engine.submit(Generate(1, (Message("user", "hello"),), sampling=HOT))

        first = engine.step()

        assert any(isinstance(one, Token) for one in first) == has_text
        run(engine)


def test_a_cancelled_one_answers_with_all_that_was_sampled(engines: tuple[Engine, Engine]) -> None:
    partials = []
    for engine in engines:
        engine.submit(Generate(1, (Message("user", "hello"),), sampling=HOT))
        for _ in range(6):
            engine.step()
        engine.cancel(1)
        (failed,) = [one for one in run(engine) if isinstance(one, Failed)]
        partials.append(failed.error.partial)

    assert partials[0]
    assert partials[0] == partials[1]


def test_a_paused_one_still_tells_what_it_has(engines: tuple[Engine, Engine]) -> None:
    late = engines[1]
    late.submit(Generate(1, (Message("user", "hello"),), sampling=HOT))
    late.step()

    late.pause(1)
    while_paused = run(late)
    late.resume(1)

    assert [type(one) for one in while_paused] == [Token]
    assert isinstance(run(late)[-1], Done)
