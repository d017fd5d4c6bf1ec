"""A checkout makes its environment, notices when it is out of date, and says what went wrong."""

import io
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from llmos.bin.bootstrap import (
    Checkout,
    Progress,
    SetupError,
    cuda_packages,
    exclusive,
    failure_reason,
    pinned_version,
    prepare,
    torch_sources,
)

PYPROJECT = """
[build-system]
requires = ["hatchling"]
[project]
dependencies = ["anyio"]
[tool.hatch.version]
path = "x.py"
[tool.ruff]
line-length = 100
"""
BIN = Path(__file__).resolve().parents[2] / "bin"
PROGRAM = '#!/bin/sh\nself=$(readlink -f -- "$0") && . "${self%/*}/environment.sh" || exit\n'


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A checkout, in a folder with a space in its name, whose environment is up to date."""
    made = Checkout(tmp_path / "a checkout")
    for folder in (made.root / "bin", made.venv / "bin"):
        folder.mkdir(parents=True)
    for name in ("environment.sh", "bootstrap.py"):
        shutil.copy(BIN / name, made.root / "bin" / name)
    program = made.root / "bin" / "say"
    program.write_text(PROGRAM + 'echo "$root" "$@"\n')
    program.chmod(0o755)
    (made.root / "constraints.txt").write_text("torch==2.13.0\nanyio==4.16.0\n")
    (made.root / "pyproject.toml").write_text(PYPROJECT)
    made.python.symlink_to(sys.executable)
    made.record()
    return made


def change(checkout: Checkout, name: str, old: str, new: str) -> None:
    path = checkout.root / name
    path.write_text(path.read_text().replace(old, new))


def say(program: Path, *arguments: str) -> str:
    """What a program prints that is started in another folder."""
    command = [str(program), *arguments]
    return subprocess.check_output(command, cwd="/", text=True, stderr=subprocess.DEVNULL)


def test_an_environment_is_fresh_after_it_was_recorded(checkout: Checkout) -> None:
    assert checkout.is_fresh()
    assert not checkout.needs_packages()


def test_a_changed_pin_needs_packages(checkout: Checkout) -> None:
    change(checkout, "constraints.txt", "4.16.0", "4.17.0")

    assert not checkout.is_fresh()
    assert checkout.needs_packages()


def test_a_new_dependency_needs_packages(checkout: Checkout) -> None:
    change(checkout, "pyproject.toml", '"anyio"', '"anyio", "click"')

    assert not checkout.is_fresh()
    assert checkout.needs_packages()


def test_a_linter_setting_needs_no_packages(checkout: Checkout) -> None:
    change(checkout, "pyproject.toml", "100", "99")

    assert not checkout.is_fresh()
    assert not checkout.needs_packages()


def test_an_environment_that_came_from_elsewhere_is_not_fresh(checkout: Checkout) -> None:
    moved = Checkout(checkout.root.with_name("moved"))

    shutil.copytree(checkout.root, moved.root, symlinks=True)

    assert not moved.is_fresh()
    assert moved.needs_packages()


def test_an_environment_of_an_interrupted_set_up_is_not_usable(checkout: Checkout) -> None:
    checkout.in_progress.touch()

    assert not checkout.is_usable()
    assert not checkout.is_fresh()


def test_an_environment_whose_python_is_gone_is_not_usable(checkout: Checkout) -> None:
    checkout.python.unlink()
    checkout.python.symlink_to("python-that-was-upgraded-away")

    assert not checkout.is_usable()


def test_a_program_starts_from_any_folder_with_its_arguments(checkout: Checkout) -> None:
    said = say(checkout.root / "bin" / "say", "two words", "*")

    assert said == f"{checkout.root} two words *\n"


def test_a_program_starts_through_links(checkout: Checkout, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.symlink_to(checkout.root / "bin" / "say")
    second.symlink_to("first")

    assert say(second) == f"{checkout.root}\n"


def test_a_start_after_a_linter_setting_changed_only_records_it(checkout: Checkout) -> None:
    change(checkout, "pyproject.toml", "100", "99")

    said = say(checkout.root / "bin" / "say", "hello")

    assert said == f"{checkout.root} hello\n"
    assert checkout.is_fresh()


def test_a_set_up_that_cannot_work_says_what_and_how_to_mend_it(checkout: Checkout) -> None:
    change(checkout, "constraints.txt", "torch==2.13.0", "")
    screen = io.StringIO()

    code = prepare(checkout, Progress(screen))

    assert code == 3
    assert screen.getvalue().splitlines()[-2].endswith("constraints.txt does not pin torch")
    assert screen.getvalue().splitlines()[-1] == "fix: git checkout constraints.txt"


def test_a_second_start_waits_for_the_first_and_says_so(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    entered = threading.Event()

    def start_too() -> None:
        with os.fdopen(writer, "w") as screen, exclusive(tmp_path, Progress(screen)):
            entered.set()

    second = threading.Thread(target=start_too)
    with exclusive(tmp_path, Progress(io.StringIO())), os.fdopen(reader) as screen:
        second.start()
        line = screen.readline()
        assert not entered.is_set()
        reader = os.dup(screen.fileno())
    second.join(timeout=10)
    os.close(reader)

    assert line == "llmos: another start is setting up .venv/; waiting for it\n"
    assert entered.is_set()


def test_without_a_gpu_torch_is_only_asked_for_as_its_cpu_build() -> None:
    own, public = torch_sources("2.13.0", has_gpu=False, platform="linux")

    assert own == ["torch==2.13.0+cpu"]
    assert public[:2] == ["torch==2.13.0+cpu", "--index-url"]
    assert public[2].endswith("/whl/cpu")


@pytest.mark.parametrize(("has_gpu", "platform"), [(True, "linux"), (False, "darwin")])
def test_with_a_gpu_or_on_a_mac_torch_is_asked_for_as_it_is(has_gpu: bool, platform: str) -> None:
    assert torch_sources("2.13.0", has_gpu, platform) == [["torch==2.13.0"]]


def test_cuda_packages_are_found_by_name(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "python3.11" / "site-packages"
    names = "torch-2.13.0+cpu", "nvidia_cublas_cu12-12.1", "triton-3.5", "tritonclient-2"
    for name in (*names, "nvidia_ml_py-13.615.71"):
        (site / f"{name}.dist-info").mkdir(parents=True)

    assert cuda_packages(tmp_path) == ["nvidia_cublas_cu12-12.1.dist-info", "triton-3.5.dist-info"]


def test_this_environment_holds_no_cuda_package_unless_torch_is_a_cuda_build() -> None:
    torch_is_cpu = any(Path(sys.prefix).glob("lib/python*/site-packages/torch-*+cpu.dist-info"))

    assert not (torch_is_cpu and cuda_packages(Path(sys.prefix)))


def test_a_pin_is_read_by_the_whole_name(tmp_path: Path) -> None:
    path = tmp_path / "constraints.txt"
    path.write_text("pytorch==1\ntorch==2.13.0\ntorchvision==3\n")

    assert pinned_version(path, "torch") == "2.13.0"
    with pytest.raises(SetupError, match="does not pin vision"):
        pinned_version(path, "vision")


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("WARNING: NewConnectionError('x')\nERROR: No match\n", "no package index answers"),
        ("OSError: [Errno 28] No space left on device\n", "the disk is full"),
        ("x\nERROR: No version of y (from versions: 1, 2)\nERROR: z\n", "No version of y"),
        ("", "pip ended with no error line"),
    ],
)
def test_a_failure_of_pip_becomes_one_line(output: str, reason: str) -> None:
    assert failure_reason(output) == reason
