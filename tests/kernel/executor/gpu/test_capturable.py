"""A model's pass asks no tensor for its value: what a CUDA graph can record.

It runs here on tensors without numbers, where a look at one fails.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llmos.kernel.executor.attention import probing
from llmos.kernel.executor.model import Model, load_model
from llmos.kernel.executor.protocol import Load

from ..conftest import make_checkpoint  # noqa: F401

META = torch.device("meta")


def load_without_numbers(folder: Path) -> Model:
    model = load_model(Load(str(folder), device="cpu", dtype="float32"))
    model.network.to(META)
    return model


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2", "gemma3", "mistral"])
def test_a_pass_over_packed_tokens_needs_no_numbers(
    make_checkpoint: Callable[[str], Path],  # noqa: F811
    architecture: str,
) -> None:
    model = load_without_numbers(make_checkpoint(architecture))
    rows = torch.arange(4, device=META)

    with torch.inference_mode(), probing() as layers:
        logits = model.compute_logits(rows, rows, rows)

    assert logits.shape == (4, 400)
    assert len(layers) == 4


@pytest.mark.parametrize("look", [torch.Tensor.item, torch.Tensor.nonzero, torch.Tensor.tolist])
def test_a_look_at_a_number_fails(look: Callable[[torch.Tensor], object]) -> None:
    """The control."""
    with torch.inference_mode(), pytest.raises((RuntimeError, NotImplementedError)):
        look(torch.ones(1, device=META))
