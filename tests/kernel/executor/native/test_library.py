"""Kernels are compiled once, by the machine's compiler; without one there are none, and why."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llmos.kernel.executor.device import pick_dtype
from llmos.kernel.executor.native import library
from llmos.kernel.executor.native.library import (
    AVX2,
    AVX512_BF16,
    Instructions,
    Library,
    NoNativeKernels,
    compute_digest,
    limited_to,
    list_instructions,
)

pytestmark = pytest.mark.usefixtures("kernels")
CPU = torch.device("cpu")
SKIP_TO_OUTPUT = 'while [ "$1" != -o ]; do shift; done'
IMPOSSIBLE = Instructions("impossible", frozenset({"avx2", "telepathy"}), ())


def load() -> Library:
    """The kernels, not those that this process has loaded already."""
    return library.load_for.__wrapped__(list_instructions()[0])


@pytest.fixture(scope="module")
def built(kernels: Library, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the machine's compiler made of the sources."""
    return Path(shutil.copy(kernels.path, tmp_path_factory.mktemp("built")))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def use_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes a shell script the only compiler; gives the file in which it notes its runs."""

    def use(script: str) -> Path:
        compiler = tmp_path / "bin" / "gcc"
        compiler.parent.mkdir(exist_ok=True)
        compiler.write_text(f'#!/bin/sh\nPATH=/usr/bin:/bin\necho $$ >> "$0.runs"\n{script}\n')
        compiler.chmod(0o700)
        monkeypatch.setenv("PATH", str(compiler.parent))
        return compiler.with_name("gcc.runs")

    return use


@pytest.fixture
def copying(built: Path) -> str:
    """A compiler that has the result ready: its output is named after -o."""
    return f"{SKIP_TO_OUTPUT}; cp {built} $2"


def find_kernels() -> list[Path]:
    return sorted((Path(os.environ["XDG_CACHE_HOME"]) / "llmos").iterdir())


def put_in_cache(built: Path, data: bytes | bytearray) -> Path:
    """Let the cache hold this in the place of what was built."""
    path = Path(os.environ["XDG_CACHE_HOME"]) / "llmos" / built.name
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return path


def test_they_are_compiled_once(use_compiler: Callable[[str], Path], copying: str) -> None:
    runs = use_compiler(copying)

    load()
    load()

    assert len(runs.read_text().split()) == 1
    assert [path.name for path in find_kernels()] == [
        f"kernels-{compute_digest(list_instructions()[0])}.so"
    ]


def test_the_best_that_the_processor_has_is_taken(instructions: Instructions) -> None:
    with limited_to(IMPOSSIBLE, instructions, IMPOSSIBLE):
        assert list_instructions() == [instructions]


def test_a_processor_that_has_none_is_told_what_it_lacks() -> None:
    with limited_to(IMPOSSIBLE), pytest.raises(NoNativeKernels, match="the processor has no tele"):
        load()


@pytest.mark.parametrize("wanted", [AVX2, AVX512_BF16], ids=lambda one: one.name)
def test_the_sources_compile_for_every_set_without_a_warning(wanted: Instructions) -> None:
    """Whether this processor has it or not."""
    compiler = shutil.which("gcc") or pytest.skip("no gcc")
    folder = Path(library.__file__).parent
    flags = ("-O1", "-fopenmp", "-Wall", "-Werror", "-S", "-o", "/dev/null")
    for source in sorted(folder.glob("*.c")):
        command = [compiler, *flags, *wanted.compiler_flags, str(source)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert not done.returncode, done.stderr


def test_kernels_for_other_instructions_have_another_digest() -> None:
    assert compute_digest(AVX2) != compute_digest(AVX512_BF16)


def test_what_is_in_the_cache_needs_no_compiler(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in_cache(built, built.read_bytes())
    monkeypatch.setenv("PATH", "")

    assert callable(load().llmos_linear)


def test_no_compiler_is_said_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(NoNativeKernels, match="no C compiler is found; fix: install gcc"):
        load()


def test_a_compiler_that_fails_is_quoted(use_compiler: Callable[[str], Path]) -> None:
    use_compiler("echo 'linear.c:1: out of paper' >&2; echo more >&2; exit 1")

    with pytest.raises(NoNativeKernels, match=r"cannot be compiled: linear\.c:1: out of paper$"):
        load()
    assert find_kernels() == []


def test_a_compiler_that_makes_nothing_of_use_is_told(use_compiler: Callable[[str], Path]) -> None:
    use_compiler(f"{SKIP_TO_OUTPUT}; echo junk > $2")

    with pytest.raises(NoNativeKernels, match=r"\.so cannot be loaded: .*too short"):
        load()


@pytest.mark.parametrize("keep", [0, 100, 5000, -100, -1])
def test_a_damaged_library_is_compiled_again(
    keep: int, built: Path, use_compiler: Callable[[str], Path], copying: str
) -> None:
    runs = use_compiler(copying)
    path = put_in_cache(built, built.read_bytes()[:keep])

    assert callable(load().llmos_linear)
    assert path.stat().st_size > built.stat().st_size
    assert len(runs.read_text().split()) == 1


def test_a_library_with_a_changed_byte_is_compiled_again(
    built: Path, use_compiler: Callable[[str], Path], copying: str
) -> None:
    runs = use_compiler(copying)
    data = bytearray(built.read_bytes())
    data[8000] ^= 1
    put_in_cache(built, data)

    assert callable(load().llmos_linear)
    assert len(runs.read_text().split()) == 1


def test_a_damaged_library_without_a_compiler_is_none(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in_cache(built, built.read_bytes()[:5000])
    monkeypatch.setenv("PATH", "")

    with pytest.raises(NoNativeKernels, match="no C compiler"):
        load()


def test_a_cache_folder_that_cannot_be_made_is_told(cache: Path) -> None:
    cache.write_text("a file")

    with pytest.raises(NoNativeKernels, match=r"cache"):
        load()


def test_two_processes_that_compile_at_once_both_succeed(
    use_compiler: Callable[[str], Path], copying: str
) -> None:
    """Neither compiler ends before both have begun."""
    runs = use_compiler(f'until [ $(wc -l < "$0.runs") -ge 2 ]; do :; done; {copying}')
    source = "from llmos.kernel.executor.native.library import load_library; load_library()"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}

    processes = [
        subprocess.Popen([sys.executable, "-c", source], env=environment) for _ in range(2)
    ]

    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert len(runs.read_text().split()) == 2
    assert len(find_kernels()) == 1


def test_openmp_is_loaded_once() -> None:
    """A second one would have threads of its own, in the way of torch's."""
    maps = Path("/proc/self/maps").read_text().splitlines()

    found = {Path(line.split()[-1]).resolve() for line in maps if "omp.so" in line}

    assert len(found) == 1


def test_models_are_computed_in_bfloat16() -> None:
    assert pick_dtype("auto", CPU) == torch.bfloat16


@pytest.mark.usefixtures("forget")
def test_models_are_computed_in_float32_without_kernels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")

    assert pick_dtype("auto", CPU) == torch.float32
    assert pick_dtype("bfloat16", CPU) == torch.bfloat16
