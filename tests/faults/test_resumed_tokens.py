"""R6 in short: generations that were cut off at a random token end as if nothing had been."""

from random import Random

import pytest

from tests.faults.killed_host import NUM_CALLS, kill_real_kernels
from tests.faults.resumed_tokens import COUNTS, run

pytestmark = pytest.mark.slow


def test_generations_that_were_cut_off_go_on_exactly() -> None:
    counts = run(24, seed=1, has_real_kills=False)

    assert counts.pop("num_runs") >= 24
    assert counts == dict.fromkeys(COUNTS[1:], 0)


def test_without_chunks_and_seeds_tokens_are_lost_and_texts_differ() -> None:
    """The control."""
    counts = run(8, seed=3, is_weak=True)

    assert counts["num_different"] > 0
    assert counts["num_lost_tokens"] > 0


def test_a_kernel_that_is_killed_leaves_generations_that_go_on() -> None:
    counts = kill_real_kernels(Random(1))

    assert 0 < counts.pop("num_runs") <= NUM_CALLS
    assert not any(counts.values())
