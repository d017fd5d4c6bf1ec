"""R7, short: mutants are named, clean replays are not, and the check can fail."""

import random

import pytest

from tests.faults.mutations import run
from tests.faults.programs import Call, Gather, Program, make_program, mutate

NUM_RUNS = 101  # the last but one has OS processes


def count_calls(program: Program) -> int:
    return sum(
        sum(map(count_calls, op.branches)) if isinstance(op, Gather) else 1 for op in program
    )


def test_mutants_are_named_and_clean_replays_are_not() -> None:
    counts = run(NUM_RUNS)

    assert counts["num_runs"] == NUM_RUNS
    assert counts["num_clean_replays"] >= NUM_RUNS
    assert counts["num_mutations"] > NUM_RUNS / 2
    assert (counts["num_unnamed"], counts["num_false_alarms"]) == (0, 0)


def test_the_control_names_no_mutant() -> None:
    counts = run(20, is_weak=True)

    assert counts["num_unnamed"] == counts["num_mutations"] > 0


@pytest.mark.parametrize("seed", range(5))
def test_a_seed_always_makes_the_same_program_and_mutant(seed: int) -> None:
    first, second = random.Random(seed), random.Random(seed)

    program = make_program(first)

    assert make_program(second) == program
    assert mutate(first, program) == mutate(second, program)


def test_programs_have_calls_branches_and_data_that_flows() -> None:
    programs = [make_program(random.Random(seed)) for seed in range(200)]

    assert max(map(count_calls, programs)) > 10
    assert any(isinstance(op, Gather) for program in programs for op in program)
    assert {op.kind for program in programs for op in program if isinstance(op, Call)} >= {
        "now",
        "generate",
        "divide",
    }
