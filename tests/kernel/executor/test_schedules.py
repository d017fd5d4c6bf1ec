"""Random schedules on every shape: each answer is the right one; with a fault planted it is not."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from llmos.kernel.executor.engine import PAGE_SIZE, Engine

from .answers import Answers
from .conftest import CONFIGS, save_checkpoint
from .schedules import NUM_NEW, PROMPTS, Break, run_schedules

NUM_SCHEDULES = 9  # of each shape; `bin/bench schedules` plays more
TWO_LAYERS = {"num_hidden_layers": 2}
MakeAnswers = Callable[[str], Answers]


@pytest.fixture(scope="module")
def make_answers(tmp_path_factory: pytest.TempPathFactory) -> MakeAnswers:
    """The answers of an architecture with two layers; the same ones for the same name."""
    made: dict[str, Answers] = {}

    def make(name: str) -> Answers:
        if name not in made:
            folder = save_checkpoint(name, tmp_path_factory.mktemp(name), **TWO_LAYERS)
            made[name] = Answers(folder, PROMPTS, NUM_NEW)
        return made[name]

    return make


@pytest.mark.parametrize("name", CONFIGS)
def test_no_schedule_changes_an_answer_or_loses_a_page(
    name: str, make_answers: MakeAnswers
) -> None:
    tally = run_schedules(make_answers(name), NUM_SCHEDULES)

    assert tally["schedules"] >= NUM_SCHEDULES
    assert tally["answers"] > NUM_SCHEDULES


def exchange_names(engine: Engine) -> None:
    """The first and the last page that have a name bear each other's."""
    pool = engine._scheduler.pool
    pages = list(pool._contents)
    if len(pages) > 1:
        first, last = pool._contents[pages[0]], pool._contents[pages[-1]]
        first.name, last.name = last.name, first.name
        pool._pages |= {first.name: pages[0], last.name: pages[-1]}


def give_out_twice(engine: Engine) -> None:
    """A page that a generation has is free for another."""
    scheduler = engine._scheduler
    if len(scheduler.running) == 1:
        scheduler.pool._free.append(scheduler.running[0].pages[0])


def shift_keys(engine: Engine) -> None:
    """The keys of one page lie a token too far on, in one layer."""
    pool = engine._scheduler.pool
    for page in list(pool._contents)[:1]:
        rows = slice(page * PAGE_SIZE, (page + 1) * PAGE_SIZE)
        keys = engine._runner.pool.keys[-1]
        keys[rows] = keys[rows].roll(1, 0)


def draw_by_neighbours(engine: Engine) -> None:
    """What is drawn depends on how many run."""
    running = engine._scheduler.running
    for sequence in running:
        sequence.sampling = replace(sequence.sampling, seed=sequence.sampling.seed + len(running))


@pytest.mark.parametrize("plant", [exchange_names, give_out_twice, shift_keys, draw_by_neighbours])
def test_a_planted_fault_is_seen_in_an_answer(plant: Break, make_answers: MakeAnswers) -> None:
    """The control, with nobody but the answers to tell."""
    with pytest.raises(AssertionError):
        run_schedules(make_answers("qwen3"), 20, plant=plant)
