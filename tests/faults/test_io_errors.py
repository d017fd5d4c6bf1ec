"""Suite R3 in short, and its control."""

import pytest

from . import io_errors
from .shim import why_not

pytestmark = [
    pytest.mark.skipif(why_not() is not None, reason=why_not() or ""),
    pytest.mark.slow,
]


def test_a_failing_disk_costs_nothing_that_was_acknowledged() -> None:
    figures = io_errors.run(80)

    assert figures.pop("num_runs") == 80
    assert set(figures.values()) == {0}


def test_the_check_finds_a_store_that_does_not_hear_its_disk() -> None:
    assert io_errors.run(30, is_weak=True)["num_lost"] > 0
