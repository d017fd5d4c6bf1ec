"""`llmos app new`."""

import subprocess
import sys
from pathlib import Path

import pytest

from llmos.bin.scaffold import make_app
from llmos.kernel.manifest import find_app
from llmos.syscalls.errors import E_ARG

from .conftest import Llmos


def test_the_manifest_is_one_that_the_kernel_reads(tmp_path: Path) -> None:
    folder = make_app("my-app", tmp_path)

    manifest = find_app(str(folder), tmp_path)
    assert (manifest.name, manifest.main) == ("my_app", "my_app:main")
    assert {path.name for path in folder.iterdir()} == {
        "README.md",
        "app.toml",
        "my_app.py",
        "test_my_app.py",
    }


def test_python_that_it_writes_compiles(tmp_path: Path) -> None:
    folder = make_app("a", tmp_path)

    for path in folder.glob("*.py"):
        compile(path.read_text(), path, "exec")


@pytest.mark.parametrize("name", ["", "A", "1a", "a b", "../a", "a/b", "class", "a" * 65, "ä"])
def test_a_bad_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(E_ARG, match="no name for an app"):
        make_app(name, tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")

    with pytest.raises(E_ARG, match="is there already"):
        make_app("a", tmp_path)

    assert (tmp_path / "a").read_text() == "mine"


def test_there_must_be_a_place_for_it(tmp_path: Path) -> None:
    with pytest.raises(E_ARG, match="no folder"):
        make_app("a", tmp_path / "nowhere")


@pytest.mark.slow
def test_a_new_app_runs_unchanged_and_passes_its_test(llmos: Llmos) -> None:
    made = llmos.run("app", "new", "my_app")

    assert (made.returncode, made.stdout) == (0, "my_app\n"), made.stderr
    ran = llmos.run("run", "--model", "echo", "./my_app", "hello", "world")
    assert (ran.returncode, ran.stdout) == (0, "hello world\n"), ran.stderr
    test = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "my_app"]
    tested = subprocess.run(
        test, cwd=llmos.work, env=llmos.environ, capture_output=True, text=True, check=False
    )
    assert tested.returncode == 0, tested.stdout
