"""Skips where there are no kernels; random checkpoints in sizes that the kernels take."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmos.kernel.executor.native.library import (
    AVX2,
    Instructions,
    Library,
    NoNativeKernels,
    limited_to,
    list_instructions,
    load_for,
    load_library,
)

from ..conftest import save_checkpoint


def find_sets() -> list[Instructions]:
    """The sets of instructions of this processor; where it has none, one to be skipped."""
    try:
        return list_instructions()
    except NoNativeKernels:
        return [AVX2]


@pytest.fixture(scope="module", params=find_sets(), ids=lambda one: one.name)
def instructions(request: pytest.FixtureRequest) -> Iterator[Instructions]:
    """Each set of instructions that this processor has, in force."""
    with limited_to(request.param):
        yield request.param


@pytest.fixture(scope="module")
def kernels(instructions: Instructions) -> Library:
    """The compiled kernels."""
    try:
        return load_library()
    except NoNativeKernels as error:
        pytest.skip(str(error))


@pytest.fixture
def forget() -> Iterator[None]:
    """Lets this process look for the kernels anew, before and after."""
    load_for.cache_clear()
    yield
    load_for.cache_clear()


@pytest.fixture(scope="session")
def make_native_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with random weights of an architecture, in sizes that the kernels take."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = save_checkpoint(name, tmp_path_factory.mktemp(name), head_dim=32)
        return made[name]

    return make
