"""What `llmos doctor` finds."""

from pathlib import Path

from llmos.bin.doctor import check_model, check_package, check_space, examine
from llmos.kernel.config import Config


def test_everything_is_looked_at_once(tmp_path: Path) -> None:
    found = [finding.what for finding in examine(Config(home=tmp_path))]

    assert found == [
        "python", "torch", "transformers", "sqlite", "state directory", "store", "model",
    ]  # fmt: skip


def test_a_library_that_is_missing_comes_with_a_fix() -> None:
    assert "llmos[local]" in check_package("no-such-package").fix


def test_a_disk_with_room_needs_no_fix(tmp_path: Path) -> None:
    assert (check_space(Config(home=tmp_path)).fix, check_space(Config(home=tmp_path)).fatal) == (
        "",
        False,
    )


def test_a_model_that_is_set_is_named(tmp_path: Path) -> None:
    assert check_model(Config(home=tmp_path, model="echo")).found == "echo"
