"""Suite R2 in short, and its control."""

from pathlib import Path

import pytest

from . import power_cuts
from .shim import why_not

pytestmark = [
    pytest.mark.skipif(why_not() is not None, reason=why_not() or ""),
    pytest.mark.slow,
]


def test_no_power_cut_loses_or_damages_anything() -> None:
    assert power_cuts.run(500) == {"num_runs": 500, "num_lost": 0, "num_corrupt": 0}


def test_the_check_finds_a_store_that_waits_less_for_its_disk() -> None:
    figures = power_cuts.run(200, is_weak=True)

    assert figures["num_lost"] > 0
    assert figures["num_corrupt"] > 0


def test_a_recording_that_misses_something_proves_nothing(tmp_path: Path) -> None:
    (tmp_path / "memory.db").write_text("written by nobody")

    with pytest.raises(AssertionError, match="is not what was done"):
        power_cuts.require_whole([], tmp_path)
