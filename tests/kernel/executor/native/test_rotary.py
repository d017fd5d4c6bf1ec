"""Rotary positions: as exact as bfloat16 allows, in our own steps, only where they are the same."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.cohere import modeling_cohere
from transformers.models.llama import modeling_llama

from llmos.kernel.executor.attention import Step, using
from llmos.kernel.executor.native.rotary import replace_rotation, rotate

from ..paged import Attention, Story

pytestmark = pytest.mark.usefixtures("kernels")
HALF_A_STEP = 2.0**-8  # of a bfloat16 number


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5)).bfloat16()


def draw_all(dim: int = 64) -> tuple[torch.Tensor, ...]:
    """Query, key, cosines and sines of 7 tokens."""
    angles = draw(1, 7, dim // 2).float().repeat(1, 1, 2)
    query, key = draw(1, 7, 4, dim).transpose(1, 2), draw(1, 7, 2, dim).transpose(1, 2)
    return query, key, angles.cos().bfloat16(), angles.sin().bfloat16()


def compute(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """The rotation in float32."""
    x, cos, sin = x.float(), cos.float().unsqueeze(1), sin.float().unsqueeze(1)
    low, high = x.chunk(2, -1)
    return x * cos + torch.cat([-high, low], -1) * sin


@pytest.mark.parametrize("dim", [32, 64, 128])
def test_a_rotation_is_the_exact_one_rounded(dim: int) -> None:
    query, key, cos, sin = draw_all(dim)
    wanted = compute(query, cos, sin), compute(key, cos, sin)

    found = rotate(query, key, cos, sin)

    for one, exact in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.float(), exact, rtol=HALF_A_STEP, atol=1e-6)


def test_dimensions_beyond_those_of_the_cosines_stay() -> None:
    query, key, cos, sin = draw_all(64)
    rest = query[..., 32:].clone()

    rotate(query, key, cos[..., :32], sin[..., :32])

    assert torch.equal(query[..., 32:], rest)


class Odd(nn.Module):
    """A network of the module whose rotation takes neighbours, not halves."""


Odd.__module__ = modeling_cohere.__name__


def test_a_rotation_that_is_another_stays() -> None:
    original = modeling_cohere.apply_rotary_pos_emb

    replace_rotation(Odd(), 64)

    assert modeling_cohere.apply_rotary_pos_emb is original


def test_only_a_step_of_ours_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    original = modeling_llama.apply_rotary_pos_emb
    original = getattr(original, "__wrapped__", original)
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", original)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_attention_heads": 1}
    network = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1, vocab_size=8))
    step = Step(Story(Attention(), [1]).make_plain(), np.zeros(1, np.int64), 1, [])

    replace_rotation(network, 64)
    query, key, cos, sin = draw_all()
    outside, _ = modeling_llama.apply_rotary_pos_emb(query, key, cos, sin)
    with using(step):
        inside, _ = modeling_llama.apply_rotary_pos_emb(query, key, cos, sin)

    assert outside is not query
    assert inside is query
