"""Random schedules on the compiled kernels: each answer is what an engine at rest says."""

from collections.abc import Callable
from pathlib import Path

import pytest

from llmos.kernel.executor.engine import Engine

from ..answers import Answers
from ..schedules import NUM_NEW, PROMPTS, run_schedules

pytestmark = pytest.mark.usefixtures("kernels")
NUM_SCHEDULES = 5  # of each shape; `bin/bench schedules` plays more


def make_answers(folder: Path) -> Answers:
    return Answers(folder, PROMPTS, NUM_NEW, dtype="bfloat16")


@pytest.mark.parametrize("name", ["qwen3", "gemma3", "phi"])
def test_no_schedule_changes_an_answer_or_loses_a_page(
    name: str, make_native_checkpoint: Callable[[str], Path]
) -> None:
    answers = make_answers(make_native_checkpoint(name))

    tally = run_schedules(answers, NUM_SCHEDULES)

    assert answers.model.is_native
    assert tally["answers"] > NUM_SCHEDULES


def test_a_decode_step_of_another_pool_is_seen(
    make_native_checkpoint: Callable[[str], Path],
) -> None:
    """The control: recordings that write and read pages which nobody has any more."""

    old: list[object] = []  # a recording may write there as long as the test runs
    changed: list[Engine] = []

    def plant(engine: Engine) -> None:
        pool = engine._runner.pool
        if engine in changed or not engine.collect_stats().num_tokens.get("decode"):
            return
        changed.append(engine)
        old.append((pool.keys, pool.values))
        pool.keys = [keys.clone() for keys in pool.keys]
        pool.values = [values.clone() for values in pool.values]
        pool.resize(pool.num_pages)

    with pytest.raises(AssertionError):
        run_schedules(make_answers(make_native_checkpoint("qwen3")), 20, plant=plant)
