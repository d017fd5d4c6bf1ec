"""What a person sees whose model lacks something, with the real command line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmos.kernel.models import DEMO_FOLDER

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the demonstration model, to be changed."""
    return Path(shutil.copytree(DEMO_FOLDER, tmp_path / "copy"))


def run_chat(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llmos.bin.cli", "run", "--model", str(folder), "chat", "hello"],
        env=os.environ | {"LLMOS_HOME": str(folder.parent / "home")},
        cwd=folder.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_model_without_a_chat_template_answers_and_says_so_once(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()

    ran = run_chat(folder)

    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("copy: the model has no chat template") == 1


def test_a_model_that_was_cut_short_is_one_line_with_the_fix(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])

    ran = run_chat(folder)

    assert ran.returncode != 0
    assert "cut short" in ran.stderr
    assert "fix: " in ran.stderr
    assert "Traceback" not in ran.stderr
