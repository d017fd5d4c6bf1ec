"""The step loop: streaming, ends, cancel, pause, errors, sampling that does not see the batch."""

import re
from pathlib import Path

import msgspec
import pytest

from llmos.kernel.executor.engine import Engine
from llmos.kernel.executor.protocol import Done, Failed, Generate, Load, Score, Token
from llmos.syscalls.types import Message, Sampling

from .conftest import run

HOT = Sampling(max_tokens=24, temperature=1.0, top_p=0.95, seed=42)
GREEDY = Sampling(max_tokens=24, temperature=0.0)


def ask(number: int, text: str = "hello", sampling: Sampling = HOT, tenant: str = "") -> Generate:
    return Generate(number, (Message("user", text),), sampling=sampling, tenant=tenant)


def answer(engine: Engine, request: Generate) -> Done:
    (done,) = [one for one in run(engine, request) if isinstance(one, Done)]
    return done


def fail(engine: Engine, request: Generate) -> Failed:
    (failed,) = run(engine, request)
    assert isinstance(failed, Failed)
    return failed


def test_tokens_join_to_the_result(engine: Engine) -> None:
    outputs = run(engine, ask(1))

    done = outputs[-1]
    assert isinstance(done, Done)
    assert "".join(one.text for one in outputs if isinstance(one, Token)) == done.text
    assert done.usage.completion_tokens <= 24


def test_a_seeded_draw_is_the_same_alone_and_in_a_batch(engine: Engine) -> None:
    alone = answer(engine, ask(1)).text
    for number in range(2, 9):
        seed = msgspec.structs.replace(HOT, seed=number)
        engine.submit(ask(number, f"something else {number}", seed))

    assert answer_among(engine, ask(9)) == alone
    assert answer(engine, ask(10, sampling=msgspec.structs.replace(HOT, seed=43))).text != alone


def answer_among(engine: Engine, request: Generate) -> str:
    engine.submit(request)
    (text,) = [one.text for one in run(engine) if isinstance(one, Done) and one.id == request.id]
    return text


def test_max_tokens_ends_with_length(engine: Engine) -> None:
    done = answer(engine, ask(1, sampling=msgspec.structs.replace(GREEDY, max_tokens=3)))

    assert (done.finish_reason, done.usage.completion_tokens) == ("length", 3)


def test_a_stop_string_ends_the_text_before_it(engine: Engine) -> None:
    whole = answer(engine, ask(1, sampling=GREEDY)).text
    stop = whole[5:8]

    done = answer(engine, ask(2, sampling=msgspec.structs.replace(GREEDY, stop=(stop,))))

    assert (done.text, done.finish_reason) == (whole[: whole.index(stop)], "stop")


def test_an_answer_ends_where_the_window_ends(engine: Engine) -> None:
    long = msgspec.structs.replace(GREEDY, max_tokens=100_000)

    usage = answer(engine, ask(1, "word " * 70, long)).usage

    assert usage.prompt_tokens + usage.completion_tokens <= engine.loaded.max_model_len


def test_a_cancelled_generation_answers_with_its_text_so_far(engine: Engine) -> None:
    engine.submit(ask(1, sampling=GREEDY))
    text = "".join(one.text for _ in range(5) for one in engine.step() if isinstance(one, Token))

    engine.cancel(1)

    (failed,) = engine.step()
    assert isinstance(failed, Failed)
    assert (failed.error.code, failed.error.partial) == ("E_CANCELLED", text)
    assert not engine.has_work
    engine.check_integrity()


def test_who_is_cancelled_or_paused_has_no_page_in_the_step_after(engine: Engine) -> None:
    for number in (1, 2, 3):
        engine.submit(ask(number, f"{number} one two three " * 8, GREEDY))
    for _ in range(4):
        engine.step()
    used = engine.collect_stats()

    engine.cancel(1)
    engine.pause(2)
    after = engine.collect_stats()
    engine.step()

    assert used.num_running - after.num_running == 2
    assert after.num_pages_free + after.num_pages_cached > used.num_pages_free
    assert {one.id for one in engine._scheduler.running} == {3}
    engine.check_integrity()


def test_a_paused_generation_goes_on_as_if_nothing_had_been(engine: Engine) -> None:
    whole = answer(engine, ask(1)).text
    engine.submit(ask(2))
    for _ in range(5):
        engine.step()

    engine.pause(2)
    assert not engine.has_work
    assert engine.collect_stats().num_paused == 1
    engine.resume(2)

    assert [one.text for one in run(engine) if isinstance(one, Done)] == [whole]


def test_a_second_turn_finds_the_first_ones_pages(engine: Engine) -> None:
    text = "a long beginning that fills some pages of the cache, " * 3

    cold = answer(engine, ask(1, text)).usage
    warm = answer(engine, ask(2, text)).usage

    assert cold.cached_tokens == 0
    assert warm.cached_tokens == (warm.prompt_tokens - 1) // 16 * 16


def test_tenants_do_not_share_pages(engine: Engine) -> None:
    text = "a long beginning that fills some pages of the cache, " * 3
    answer(engine, ask(1, text, tenant="a"))

    assert answer(engine, ask(2, text, tenant="b")).usage.cached_tokens == 0


def test_a_prompt_past_the_window_names_its_length_and_the_maximum(engine: Engine) -> None:
    error = fail(engine, ask(1, "word " * 2000)).error

    assert error.code == "E_CONTEXT"
    assert str(engine.loaded.max_model_len) in error.message


def test_a_prompt_that_no_pool_of_this_size_can_hold_is_refused_at_once(qwen3: Path) -> None:
    small = Engine(Load(str(qwen3)), num_pages=4)

    error = fail(small, ask(1, "one two three " * 20)).error
    scored = Score(2, (Message("user", "hi"),), (" and so on" * 30,))
    small.submit(scored)

    assert error.code == "E_CONTEXT"
    assert {"64", "512"} <= set(re.findall(r"\d+", error.message))
    assert [one.error.code for one in run(small) if isinstance(one, Failed)] == ["E_CONTEXT"]
    assert answer(small, ask(3)).usage.completion_tokens > 0


def test_an_answer_begun_in_a_larger_pool_is_refused_by_one_too_small(qwen3: Path) -> None:
    small = Engine(Load(str(qwen3)), num_pages=4)
    begun = msgspec.structs.replace(ask(1), emitted=(70,) * 60)

    error = fail(small, begun).error

    assert (error.code, "60" in error.message) == ("E_CONTEXT", True)


@pytest.mark.parametrize("messages", [(), (Message("user", " \n"),)])
def test_an_empty_prompt_is_an_argument_error(
    engine: Engine, messages: tuple[Message, ...]
) -> None:
    error = fail(engine, Generate(1, messages)).error

    assert (error.code, error.field) == ("E_ARG", "messages")


def test_a_bad_request_does_not_disturb_the_others(engine: Engine) -> None:
    alone = answer(engine, ask(1)).text
    engine.submit(ask(2))
    engine.submit(Generate(3, ()))

    outputs = run(engine)

    assert [one.text for one in outputs if isinstance(one, Done)] == [alone]
    assert [one.id for one in outputs if isinstance(one, Failed)] == [3]
