"""Where the time goes: phases that add up, and a bounded record of them."""

from llmos.kernel.executor.engine import Engine
from llmos.kernel.executor.meter import Meter
from llmos.kernel.executor.protocol import Embed, Generate, Score
from llmos.syscalls.types import Message, Sampling

from .conftest import run

GREEDY = Sampling(max_tokens=8, temperature=0.0)


def ask(number: int, text: str = "hello", owner: int = 0) -> Generate:
    return Generate(number, (Message("user", text),), sampling=GREEDY, owner=owner)


def test_every_moment_is_in_one_phase() -> None:
    meter = Meter()
    meter.begin_trace()

    before = meter.enter("plan")
    inner = meter.enter("swap")
    meter.enter(inner)
    meter.enter("idle")
    trace = meter.end_trace()

    assert (before, inner) == ("idle", "plan")
    assert [span.phase for span in trace.spans] == ["plan", "swap", "plan"]
    assert sum(span.duration_us for span in trace.spans) <= 1e6 * sum(meter.seconds.values())


def test_without_a_trace_nothing_is_kept() -> None:
    meter = Meter()

    for _ in range(100):
        meter.enter("plan")

    assert meter.trace is None
    assert meter.end_trace().spans == ()


def test_a_trace_that_is_full_counts_the_steps_it_leaves_out(engine: Engine) -> None:
    engine.meter.begin_trace(max_spans=12)

    engine.submit(ask(1))
    run(engine)
    trace = engine.meter.end_trace()

    assert len(trace.spans) == 12
    assert len(trace.steps) + trace.num_steps_left_out == engine.collect_stats().num_steps
    assert trace.num_steps_left_out > 0


def test_a_trace_has_every_step_with_its_phases(engine: Engine) -> None:
    engine.submit(ask(1, "one two three " * 5))
    engine.meter.begin_trace()

    run(engine)
    trace = engine.meter.end_trace()

    assert len(trace.steps) == engine.collect_stats().num_steps == 8
    assert [step.num_decodes for step in trace.steps] == [0, *[1] * 7]
    assert trace.steps[0].num_prefill_tokens > 10
    for step in trace.steps:
        inside = [one.phase for one in trace.spans if is_inside(one, step)]
        assert {"pack", "forward", "sample", "detokenize"} <= set(inside)
    assert trace.steps[-1].num_pages_in_use == 0


def is_inside(span: object, step: object) -> bool:
    start, end = step.start_us, step.start_us + step.duration_us  # type: ignore[attr-defined]
    at = span.start_us + span.duration_us / 2  # type: ignore[attr-defined]
    return bool(start <= at <= end)


def test_tokens_are_counted_by_kind(engine: Engine) -> None:
    long = "one two three " * 10
    engine.submit(ask(1, long))
    run(engine)
    first = engine.collect_stats().num_tokens
    engine.submit(ask(2, long))
    engine.submit(Score(3, (Message("user", "hi"),), (" a b c",)))
    engine.submit(Embed(4, ("some words",)))
    run(engine)
    second = engine.collect_stats()

    assert first["decode"] == 7
    assert second.num_tokens["decode"] == 14
    assert first.get("cached", 0) == 0
    assert second.num_tokens["cached"] == second.num_cached_tokens > 16
    assert min(second.num_tokens["scored"], second.num_tokens["embedded"]) > 1


def test_pages_are_counted_by_the_process_that_they_are_for(engine: Engine) -> None:
    engine.submit(ask(1, "one two three " * 10, owner=7))
    engine.submit(ask(2, "another text altogether, and a long one " * 4, owner=8))
    engine.step()
    engine.step()

    stats = engine.collect_stats()

    assert stats.num_pages_by_owner.keys() == {7, 8}
    num_used = stats.num_pages - stats.num_pages_free
    assert sum(stats.num_pages_by_owner.values()) == num_used


def test_the_time_of_steps_is_told_by_phase(engine: Engine) -> None:
    engine.submit(ask(1))
    run(engine)

    seconds = engine.collect_stats().seconds

    assert seconds["forward"] > 0
    assert {"plan", "pack", "forward", "sample", "detokenize"} <= seconds.keys()
