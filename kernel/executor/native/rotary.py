"""Rotary positions on the compiled kernels.

transformers rotates queries and keys by a function of the model's own module. It is replaced
there after it was proved that it rotates as the kernel does. The replacement acts in our own
forward passes in bfloat16; whoever else uses transformers in the process gets the original.
"""

import functools
import sys
from typing import Any

import torch

from ..attention import is_stepping
from .library import LANES, load_library

_NAME = "apply_rotary_pos_emb"
_MARK = "llmos_native"
_TOLERANCE = 0.02


def rotate(
    query: torch.Tensor,
    key: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    unsqueeze_dim: int = 1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate query and key in place, by cos and sin [1, tokens, dim], all in bfloat16.

    Query and key are [1, heads, tokens, dim] where cos and sin are given a dimension 1 for the
    heads, and [1, tokens, heads, dim] where they are given a dimension 2.
    """
    heads, tokens = (1, 2) if unsqueeze_dim == 1 else (2, 1)
    cos, sin = cos.contiguous(), sin.contiguous()
    library, dim = load_library(), cos.shape[-1]
    for x in (query, key):
        library.llmos_rotate(
            x.data_ptr(), x.stride(heads), x.stride(tokens), cos.data_ptr(), sin.data_ptr(),
            x.shape[heads], x.shape[tokens], dim,
        )  # fmt: skip
    return query, key


def replace_rotation(network: Any, key_dim: int) -> None:
    """Put `rotate` in the place of the model's function, if there is one that does the same."""
    module = sys.modules[type(network).__module__]
    original = getattr(module, _NAME, None)
    if original is None or hasattr(original, _MARK) or not _fits(key_dim):
        return
    if not _rotates_alike(original, key_dim):
        return

    @functools.wraps(original)
    def replacement(query: Any, key: Any, cos: Any, sin: Any, *rest: Any, **options: Any) -> Any:
        is_half = query.dtype == key.dtype == cos.dtype == torch.bfloat16
        ours = is_half and is_stepping() and _fits(cos.shape[-1])
        return (rotate if ours else original)(query, key, cos, sin, *rest, **options)

    setattr(replacement, _MARK, True)
    setattr(module, _NAME, replacement)


def _fits(dim: int) -> bool:
    return dim % (2 * LANES) == 0


def _rotates_alike(original: Any, dim: int) -> bool:
    """Whether it answers random queries, keys, cosines and sines as `rotate` does."""
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 2, 5, dim, generator=generator).bfloat16()
    cos, sin = torch.randn(2, 1, 5, dim, generator=generator).bfloat16()
    try:
        wanted = original(query, key, cos, sin)
    except (TypeError, RuntimeError, ValueError):
        return False
    found = rotate(query.clone(), key.clone(), cos, sin)
    return all(
        bool((a.float() - b.float()).norm() <= _TOLERANCE * b.float().norm())
        for a, b in zip(found, wanted, strict=True)
    )
