"""Wheel and sdist hold all of llmos and nothing beside it."""

import re
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from llmos.bin.checks import count_sources, every_source_was_checked
from tests.architecture.sources import PACKAGES, ROOT, files

# Programs of a bare checkout: they make the environment that a wheel is installed into.
CHECKOUT_ONLY = {"bin/bootstrap.py", "bin/checks.py", "bin/environment.sh"}
CHECKOUT_ONLY |= {"bin/llmos", "bin/llmosd", "bin/test", "bin/bench"}


def build(kind: str, source: Path, target: Path) -> Path:
    """Build a distribution with the installed hatchling, as pip would."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(target)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    return next(target.iterdir())


def packaged_files() -> set[str]:
    """What a wheel has to hold, by its path in the checkout."""
    found = {str(path.relative_to(ROOT)) for name in PACKAGES for path in files(ROOT / name)}
    return found - CHECKOUT_ONLY


def names_in_wheel(wheel: Path) -> set[str]:
    names = zipfile.ZipFile(wheel).namelist()
    return {name for name in names if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    return names_in_wheel(build("wheel", ROOT, tmp_path_factory.mktemp("wheel")))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build("sdist", ROOT, folder)) as archive:
        # Python 3.11.2 has no filters yet; later ones warn where none is named.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(folder)
    return next(path for path in folder.iterdir() if path.is_dir())


def test_the_wheel_holds_every_file_of_the_five_packages(wheel: set[str]) -> None:
    in_packages = {name for name in wheel if name.split("/")[1] in PACKAGES}

    assert in_packages == {f"llmos/{name}" for name in packaged_files()}


def test_the_wheel_holds_the_demonstration_model(wheel: set[str]) -> None:
    model = {str(path.relative_to(ROOT / "models/demo")) for path in files(ROOT / "models/demo")}

    assert model
    assert {f"llmos/demo_model/{name}" for name in model} <= wheel


def test_the_wheel_installs_nothing_outside_llmos(wheel: set[str]) -> None:
    assert {name.split("/")[0] for name in wheel} == {"llmos"}


def test_what_is_pinned_is_installed_in_that_version() -> None:
    pins = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)

    assert len(pins) > 50
    assert [pin for pin in pins if version(pin[0]).partition("+")[0] != pin[1]] == []


def test_the_wheel_is_typed(wheel: set[str]) -> None:
    assert {"llmos/__init__.py", "llmos/py.typed"} <= wheel


def test_the_sdist_holds_every_file_that_the_tests_need(sdist: Path) -> None:
    folders = (*PACKAGES, "tests", "bench", "models")
    wanted = {str(path.relative_to(ROOT)) for name in folders for path in files(ROOT / name)}

    assert not {name for name in wanted if not (sdist / name).is_file()}


def test_a_wheel_from_the_sdist_is_the_wheel_from_the_checkout(
    sdist: Path, wheel: set[str], tmp_path: Path
) -> None:
    assert names_in_wheel(build("wheel", sdist, tmp_path)) == wheel


def test_a_checker_that_misses_a_module_is_red() -> None:
    num_sources = count_sources(ROOT)

    assert not every_source_was_checked(f"Success: no issues found in {num_sources} source files")
    assert every_source_was_checked(f"Success: no issues found in {num_sources - 1} source files")
    assert every_source_was_checked("")
