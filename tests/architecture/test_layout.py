"""The five folders are packages of llmos and nothing else."""

import importlib
import importlib.metadata
import importlib.util
import pkgutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import llmos
from tests.architecture.sources import PACKAGES, ROOT

HEAVY = {"torch", "transformers", "sqlalchemy", "mcp"}

# Triton comes with torch's builds for GPUs alone.
NEED_TRITON = ("llmos.kernel.executor.gpu.ops", "llmos.kernel.executor.gpu.pool")


@pytest.mark.parametrize("name", PACKAGES)
def test_every_module_imports_under_llmos(name: str) -> None:
    package = importlib.import_module(f"llmos.{name}")

    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if module.name in NEED_TRITON and importlib.util.find_spec("triton") is None:
            continue
        assert importlib.import_module(module.name).__name__ == module.name


def test_no_module_has_a_second_name() -> None:
    """A checkout on sys.path could import kernel/ as `kernel` as well as `llmos.kernel`."""
    assert not set(PACKAGES) & set(sys.modules)


def test_a_traceback_names_the_file_at_the_root_and_not_the_link() -> None:
    module = importlib.import_module("llmos.syscalls.errors")

    assert module.__file__ == str(ROOT / "syscalls" / "errors.py")


def test_version_is_the_distribution_version() -> None:
    assert llmos.__version__ == importlib.metadata.version("llmos")


def test_nothing_installs_one_of_our_folders_at_the_top() -> None:
    installed = {path.stem for path in Path(sysconfig.get_path("purelib")).iterdir()}

    assert not installed & set(PACKAGES)


def test_the_command_line_starts_without_the_heavy_packages() -> None:
    program = "import sys, llmos.bin.cli; print(*sys.modules)"

    loaded = subprocess.check_output([sys.executable, "-P", "-c", program], text=True, cwd=ROOT)

    assert "llmos.bin.cli" in loaded.split()
    assert not HEAVY & set(loaded.split())
