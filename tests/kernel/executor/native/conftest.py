"""Skips where there are no kernels; random checkpoints in sizes that the kernels take."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import pytest

from llmos.kernel.executor.native.library import NoNativeKernels, load_library

from ..conftest import save_checkpoint


@pytest.fixture(scope="session")
def kernels() -> ctypes.CDLL:
    """The compiled kernels."""
    try:
        return load_library()
    except NoNativeKernels as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def make_native_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with random weights of an architecture, in sizes that the kernels take."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = save_checkpoint(name, tmp_path_factory.mktemp(name), head_dim=32)
        return made[name]

    return make
