"""What a person does first, with the demonstration model and the real command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
TEXT = """The river has flooded the old town twice this year. Shops near the bridge were closed.
Most importantly, the council will build a new wall before winter. Some people like the plan."""
Ran = subprocess.CompletedProcess[str]


class Llmos:
    """The command line with a state directory of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *words: str) -> Ran:
        return subprocess.run(
            [sys.executable, "-m", "llmos.bin.cli", *words],
            env=os.environ | {"LLMOS_HOME": str(self.folder / "home")},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture
def llmos(tmp_path: Path) -> Llmos:
    return Llmos(tmp_path)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Llmos, Ran]:
    """A state directory where one question was asked, and how that went."""
    llmos = Llmos(tmp_path_factory.mktemp("asked"))
    return llmos, llmos("run", "ask", "what is 17 * 23?")


def test_ask_calls_the_calculator_and_says_the_result(asked: tuple[Llmos, Ran]) -> None:
    _, ran = asked

    assert ran.returncode == 0, ran.stderr
    assert "391" in ran.stdout
    assert 'calculator {"expression": "17 * 23"} → 391' in ran.stderr


def test_chat_remembers_from_one_run_to_the_next(llmos: Llmos) -> None:
    first = llmos("run", "chat", "my cat is called Miso")
    second = llmos("run", "chat", "what is my cat called?")

    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "Miso" in second.stdout


def test_summarize_gives_the_key_sentences_of_a_file(llmos: Llmos) -> None:
    (llmos.folder / "news.txt").write_text(TEXT)

    ran = llmos("run", "summarize", "news.txt")

    assert ran.returncode == 0, ran.stderr
    assert "council will build a new wall" in ran.stdout
    assert "Shops near the bridge" not in ran.stdout


def test_a_new_app_runs_unchanged(llmos: Llmos) -> None:
    made = llmos("app", "new", "my_app")
    ran = llmos("run", "./my_app", "hello")

    assert made.returncode == ran.returncode == 0, made.stderr + ran.stderr
    assert ran.stdout.strip()


def test_ps_and_log_show_what_ran(asked: tuple[Llmos, Ran]) -> None:
    llmos, _ = asked

    ps, log = llmos("ps"), llmos("log", "1")

    assert "ask what is 17 * 23?" in ps.stdout
    assert "generate" in log.stdout
    assert "tool" in log.stdout
