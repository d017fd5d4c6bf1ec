"""Writes a Qwen3 checkpoint as the GGUF file that llama.cpp reads, weights in bf16 as they are.

Runs in llama.cpp's environment, where there is no torch: the safetensors file is read by its own
short format (eight bytes of header length, a JSON header, then the tensors). Norms are float32,
as llama.cpp's own converter writes them. There is no vocabulary in the file: prompts are ids.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTER_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def name_tensor(name: str) -> str:
    """llama.cpp's name of a tensor of transformers' Qwen3. Raises KeyError for another one."""
    if name in OUTER_NAMES:
        return OUTER_NAMES[name]
    layer, _, rest = name.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{LAYER_NAMES[rest.removesuffix('.weight')]}.weight"


def read_tensors(path: Path) -> Iterator[tuple[str, list[int], NDArray[np.uint16]]]:
    """Name, shape and bf16 numbers, as 16-bit integers, of every tensor in a safetensors file."""
    data = np.memmap(path, np.uint8, "r")
    size = int.from_bytes(data[:8].tobytes(), "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + size].tobytes())
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if entry["dtype"] != "BF16":
            raise ValueError(f"{name} is {entry['dtype']}, not BF16")
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        yield name, entry["shape"], data[begin:end].view(np.uint16)


def widen(numbers: NDArray[np.uint16]) -> NDArray[np.float32]:
    """bf16 to float32: the same bits, and sixteen zeros."""
    return (numbers.astype(np.uint32) << 16).view(np.float32)


def write_gguf(folder: Path, path: Path) -> None:
    """Write the checkpoint of `folder` to `path`."""
    import gguf

    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, "qwen3")
    _add_shape(writer, config)
    writer.add_tokenizer_model("none")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    bf16 = gguf.GGMLQuantizationType.BF16
    for name, shape, numbers in read_tensors(folder / "model.safetensors"):
        if len(shape) == 1:
            writer.add_tensor(name_tensor(name), widen(numbers))
        else:
            writer.add_tensor(
                name_tensor(name), numbers.view(np.uint8).reshape(shape[0], -1), raw_dtype=bf16
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_shape(writer: Any, config: dict[str, Any]) -> None:
    theta = (config.get("rope_parameters") or config)["rope_theta"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(theta)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
