"""Whole models on Triton's ops, in padded steps: transformers' own tokens."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from bench.stepping import Loop
from llmos.kernel.executor.model import load_model
from llmos.kernel.executor.protocol import Load

from ..conftest import make_checkpoint  # noqa: F401
from .conftest import DEVICE

pytest.importorskip("triton")
pytestmark = pytest.mark.slow

PROMPTS = [[5, 9, 17], list(range(30, 65)), [40, 41]]
NUM_NEW = 6


def generate(folder: Path, prompt: list[int]) -> list[int]:
    """Transformers' answer."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().to(DEVICE)
    model.generation_config.eos_token_id = None
    inputs = torch.tensor([prompt], device=DEVICE)
    mask = torch.ones_like(inputs)
    output = model.generate(
        inputs, attention_mask=mask, max_new_tokens=NUM_NEW, do_sample=False, pad_token_id=0
    )
    return list(output[0, len(prompt) :].tolist())


@pytest.mark.parametrize("architecture", ["gemma2", "qwen3"])
def test_chunks_and_padded_decodes_say_what_transformers_says(
    make_checkpoint: Callable[[str], Path],  # noqa: F811
    architecture: str,
) -> None:
    folder = make_checkpoint(architecture)
    loaded = load_model(Load(str(folder), device=DEVICE, dtype="float32"))
    model = dataclasses.replace(loaded, is_triton=True)
    loop = Loop(model, num_pages=32, max_running=3, max_step_tokens=20)

    answers = [one.tokens for one in loop.generate(PROMPTS, NUM_NEW)]

    loop.close()
    assert answers == [generate(folder, prompt) for prompt in PROMPTS]
    assert len({tuple(answer) for answer in answers}) > 1
