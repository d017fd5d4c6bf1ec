"""A checkpoint reaches llama.cpp with its own names and its own bits."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, Qwen3Config

from bench.peers.gguf_file import LAYER_NAMES, OUTER_NAMES, name_tensor, read_tensors, widen


def test_every_tensor_of_a_qwen3_has_a_name_of_its_own() -> None:
    shape = Qwen3Config(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    tensors = list(AutoModelForCausalLM.from_config(shape).state_dict())

    names = {name_tensor(tensor) for tensor in tensors}

    assert len(names) == len(tensors) == len(OUTER_NAMES) + 2 * len(LAYER_NAMES)
    assert {"token_embd.weight", "output.weight", "blk.1.attn_k_norm.weight"} <= names


def test_a_tensor_of_another_architecture_is_refused() -> None:
    with pytest.raises(KeyError):
        name_tensor("model.layers.0.mlp.experts.0.up_proj.weight")


def test_read_tensors_keep_their_bits(tmp_path: Path) -> None:
    tensors = {
        "matrix": torch.randn(3, 5, dtype=torch.bfloat16),
        "norm": torch.tensor([1.0, -0.0, 3e38, 1e-38], dtype=torch.bfloat16),
    }
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})

    found = {
        name: (shape, bits) for name, shape, bits in read_tensors(tmp_path / "model.safetensors")
    }

    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        shape, bits = found[name]
        assert shape == list(tensor.shape)
        assert torch.equal(torch.from_numpy(widen(bits)).reshape(shape), tensor.float())


def test_a_float32_checkpoint_is_refused(tmp_path: Path) -> None:
    save_file({"norm": torch.ones(2)}, tmp_path / "model.safetensors")

    with pytest.raises(ValueError, match="F32"):
        list(read_tensors(tmp_path / "model.safetensors"))
