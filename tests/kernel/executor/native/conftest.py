"""Skips where there are no kernels; random checkpoints in sizes that the kernels take."""

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, PhiConfig

from llmos.kernel.executor.native.library import (
    AVX2,
    Instructions,
    NoNativeKernels,
    limited_to,
    list_instructions,
    load_library,
)

from ..conftest import CONFIGS, SHAPE, make_tokenizer


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
def kernels(instructions: Instructions) -> ctypes.CDLL:
    """The compiled kernels."""
    try:
        return load_library()
    except NoNativeKernels as error:
        pytest.skip(str(error))


NATIVE_CONFIGS: dict[str, Callable[[], Any]] = CONFIGS | {
    "phi": lambda: PhiConfig(**SHAPE, partial_rotary_factor=0.5),
    "gpt2": lambda: GPT2Config(
        vocab_size=SHAPE["vocab_size"], n_embd=64, n_layer=4, n_head=2, n_positions=512,
        bos_token_id=0, eos_token_id=2, initializer_range=0.1,
    ),
}  # fmt: skip


@pytest.fixture(scope="session")
def make_native_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with random weights of an architecture, in sizes that the kernels take."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            torch.manual_seed(7)
            made[name] = tmp_path_factory.mktemp(name)
            config = NATIVE_CONFIGS[name]()
            config.head_dim = 32
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            model.save_pretrained(made[name])
            make_tokenizer().save_pretrained(made[name])
        return made[name]

    return make
