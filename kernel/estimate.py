"""What a model will need of a device, told from its files before anything is loaded.

Weights count in the precision that is wanted, or that the executor would pick, pages by the heads
that write keys and values. Working memory is a process with torch in it (measured on a CPU: 231 MiB
before and 268 MiB after 64 generations; 1 GiB is assumed of a CUDA context and its libraries) and
the largest step's activations and logits.
"""

import math
from typing import Any

import msgspec

from llmos.syscalls.errors import E_MODEL

from .devices import HOST, Device, fits_kernels
from .modelfiles import BATCH_BOUND_ROPE, ModelFiles, find_text_config

HOST_LIMITS, GPU_LIMITS = (64, 512), (256, 1024)  # sequences and tokens of a step: the executor's
MIN_CONTEXT_TOKENS = 2048
_HOST_PROCESS_BYTES = 256 << 20
_CUDA_PROCESS_BYTES = 1 << 30
_NUM_LOGIT_COPIES = 4
_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "int8": 2}  # of pages, and of what int8 leaves
_SCALE_BYTES = 4
_PLACES = ("wpe.weight", "embed_positions.weight")
_EMBEDDINGS = ("embed_tokens.weight", "embed_in.weight", "wte.weight", *_PLACES)
_OWN_HEADS = ("lm_head.weight", "embed_out.weight")
_HIDDEN = ("hidden_size", "n_embd", "d_model")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_WINDOWS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")
_UNSCALED_WINDOW = "original_max_position_embeddings"
_OTHER_TOWERS = ("vision", "audio")


class Estimate(msgspec.Struct, frozen=True):
    """What one replica needs on one kind of device.

    `token_bytes` is what a token's keys and values take; 0 where the files do not tell.
    """

    model: str
    dtype: str
    num_parameters: int
    weight_bytes: int
    working_bytes: int
    token_bytes: int
    window_tokens: int
    max_running: int

    @property
    def min_context_tokens(self) -> int:
        """What a model has to have pages for to be of use."""
        return min(self.window_tokens, MIN_CONTEXT_TOKENS)

    @property
    def needed_bytes(self) -> int:
        """The least that it can be loaded with."""
        pages_bytes = self.token_bytes * self.min_context_tokens
        return self.weight_bytes + self.working_bytes + pages_bytes

    @property
    def max_pool_bytes(self) -> int:
        """All pages that as many generations as may run can fill."""
        return self.token_bytes * self.window_tokens * self.max_running

    def count_context_tokens(self, free_bytes: int) -> int:
        """How long a conversation may be that has so much memory for itself and the model."""
        left_bytes = max(0, free_bytes - self.weight_bytes - self.working_bytes)
        if not self.token_bytes:
            return self.window_tokens
        return min(self.window_tokens, left_bytes // self.token_bytes)


def estimate_model(
    name: str, files: ModelFiles, device: Device, wanted_dtype: str = "auto"
) -> Estimate:
    """The estimate for a device. Raises E_MODEL if it cannot have weights of that precision."""
    config = find_text_config(files.config)
    dtype = pick_dtype(device, files, wanted_dtype)
    is_host = device.name == HOST
    max_running, _ = HOST_LIMITS if is_host else GPU_LIMITS
    return Estimate(
        model=name,
        dtype=dtype,
        num_parameters=files.num_parameters,
        weight_bytes=_count_weight_bytes(
            files, dtype, is_packed=is_host and dtype in ("bfloat16", "int8")
        ),
        working_bytes=_count_working_bytes(config, is_host=is_host),
        token_bytes=count_token_numbers(files) * _ITEM_BYTES[dtype],
        window_tokens=_find_window(config),
        max_running=max_running,
    )


def _find_window(config: dict[str, Any]) -> int:
    """The executor's window: it ends where a rotation begins that depends on the batch."""
    window = _find_number(config, _WINDOWS) or MIN_CONTEXT_TOKENS
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    if isinstance(rope, dict) and rope.get("rope_type", rope.get("type")) in BATCH_BOUND_ROPE:
        own = [_find_number(part, (_UNSCALED_WINDOW,)) for part in (rope, config)]
        window = own[0] or own[1] or window
    return window


def pick_dtype(device: Device, files: ModelFiles, wanted: str = "auto") -> str:
    """The weights' precision; the executor by itself picks bfloat16 where it is faster.

    On the host its kernels are needed for that. Raises E_MODEL for int8 where they do not run.
    """
    if wanted == "int8" and device.name != HOST:
        reason = f"int8 weights run on the host alone, not on {device.name}"
        raise E_MODEL(f"{reason}; fix: LLMOS_DEVICE=cpu, or LLMOS_DTYPE=auto", field="dtype")
    if wanted == "int8" and not device.has_bfloat16:
        reason = "int8 weights need a processor with AVX2, and gcc"
        raise E_MODEL(f"{reason}; fix: install gcc, or LLMOS_DTYPE=auto", field="dtype")
    if wanted != "auto":
        return wanted
    dims = _find_dims(find_text_config(files.config))
    is_fast = device.name != HOST or fits_kernels(*dims)
    return "bfloat16" if is_fast and device.has_bfloat16 else "float32"


def _count_weight_bytes(files: ModelFiles, dtype: str, *, is_packed: bool) -> int:
    """The executor packs matrices for its compiled kernels, of int8 with a scale for each output.

    An embedding is looked up as it is; one that is the last layer too is there as both.
    """
    if not is_packed:
        return files.num_parameters * _ITEM_BYTES[dtype]
    item_bytes, scale_bytes = (1, _SCALE_BYTES) if dtype == "int8" else (_ITEM_BYTES[dtype], 0)
    has_head = any(name.endswith(_OWN_HEADS) for name in files.shapes)
    size_bytes = 0
    for name, shape in files.shapes.items():
        is_matrix, is_embedding = len(shape) == 2, name.endswith(_EMBEDDINGS)
        if is_embedding or not is_matrix:
            size_bytes += math.prod(shape) * _ITEM_BYTES[dtype]
        if is_matrix and (not is_embedding or not (has_head or name.endswith(_PLACES))):
            size_bytes += math.prod(shape) * item_bytes + shape[0] * scale_bytes
    return size_bytes


def count_token_numbers(files: ModelFiles) -> int:
    """How many numbers all layers keep of a token; 0 where the files do not tell.

    The projections' own shapes say it best: a configuration leaves out what is its class's default.
    """
    rows = sum(
        shape[0]
        for name, shape in files.shapes.items()
        if name.endswith(("k_proj.weight", "v_proj.weight"))
        and shape
        and not any(tower in name for tower in _OTHER_TOWERS)
    )
    return rows or _count_by_config(find_text_config(files.config))


def _count_by_config(config: dict[str, Any]) -> int:
    num_heads = _find_number(config, _HEADS)
    if not _find_number(config, ("qk_nope_head_dim",)):  # there keys are kept for every head
        num_heads = _find_number(config, ("num_key_value_heads",)) or num_heads
    return _find_number(config, _LAYERS) * num_heads * sum(_find_dims(config))


def _find_dims(config: dict[str, Any]) -> tuple[int, int]:
    """How many numbers a head keeps of a token, as key and as value; 0 where it does not tell."""
    if nope_dim := _find_number(config, ("qk_nope_head_dim",)):
        key_dim = nope_dim + _find_number(config, ("qk_rope_head_dim",))
        return key_dim, _find_number(config, ("v_head_dim",))
    num_heads = _find_number(config, _HEADS)
    head_dim = _find_number(config, ("head_dim",))
    if not head_dim and num_heads:
        head_dim = _find_number(config, _HIDDEN) // num_heads
    return head_dim, head_dim


def _count_working_bytes(config: dict[str, Any], *, is_host: bool) -> int:
    """The process and one step of as many tokens as a step may have."""
    hidden = _find_number(config, _HIDDEN)
    inner = _find_number(config, ("intermediate_size", "n_inner")) or 4 * hidden
    max_running, max_tokens = HOST_LIMITS if is_host else GPU_LIMITS
    activations = max_tokens * (8 * hidden + 3 * inner)
    logits = max_running * _find_number(config, ("vocab_size",)) * _NUM_LOGIT_COPIES
    process_bytes = _HOST_PROCESS_BYTES if is_host else _CUDA_PROCESS_BYTES
    return process_bytes + 4 * (activations + logits)


def _find_number(config: dict[str, Any], names: tuple[str, ...]) -> int:
    """The first of these that is there; of a list of one per layer the largest."""
    for name in names:
        value = config.get(name)
        if isinstance(value, list):
            value = max((one for one in value if type(one) is int), default=0)
        if type(value) is int and value > 0:
            return value
    return 0
