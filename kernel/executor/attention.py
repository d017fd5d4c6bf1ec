"""Attention over pages, in the place where transformers calls its attention function.

transformers hands every layer's query, key and value to the function registered under
`ATTENTION_NAME`. Ours writes keys and values straight to the pool's pages, by slot, and lets the
pool compute what each token may see. The tokens of a step are packed into one row: first one
token of each decoding sequence, then the prefill chunks.

The step in progress is a module variable, because not every architecture passes keyword
arguments through to its attention: one forward pass at a time in a process.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from llmos.syscalls.errors import E_MODEL

ATTENTION_NAME = "llmos_paged"
Window = int | None


@dataclass(frozen=True)
class LayerShape:
    """One layer's share of a token: key heads and dimensions."""

    num_heads: int
    key_dim: int
    value_dim: int


@dataclass(frozen=True)
class Chunk:
    """A run of new tokens of one sequence: rows [row, row + num_new) of the step."""

    row: int
    num_new: int
    num_before: int
    pages: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Step:
    """What one forward pass reads and writes. The first `num_decodes` chunks are single tokens;
    slot = page x page_size + place in the page."""

    pool: "Pool"
    slots: NDArray[np.int64]
    num_decodes: int
    chunks: list[Chunk]


class Pool(Protocol):
    """Keys and values of all pages, per layer, on one device."""

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor, step: Step) -> None:
        """Put the step's keys and values [1, heads, tokens, dim] into their slots."""
        ...

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        step: Step,
        scale: float,
        window: Window,
        softcap: float | None,
    ) -> torch.Tensor:
        """[1, query heads, tokens, dim] to [1, tokens, query heads, value dim]."""
        ...


_step: Step | None = None
_probe: dict[int, LayerShape] | None = None


@contextmanager
def using(step: Step) -> Iterator[None]:
    """Let the forward pass inside read and write through this step."""
    global _step
    _step = step
    try:
        yield
    finally:
        _step = None


def is_stepping() -> bool:
    """Whether a forward pass over a step is in progress."""
    return _step is not None


@contextmanager
def probing() -> Iterator[dict[int, LayerShape]]:
    """Collect the shapes of the layers that a forward pass inside calls, by layer index.

    Raises E_MODEL when a layer wants what attention over pages does not have.
    """
    global _probe
    _probe = {}
    try:
        yield _probe
    finally:
        _probe = None


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    scaling: float | None = None,
    sliding_window: Window = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """A layer's attention, with transformers' calling convention.

    `query` is [1, query heads, tokens, dim], `key` and `value` [1, heads, tokens, dim]; the result
    is [1, tokens, query heads, dim]. Other arguments do not matter at inference.
    """
    if _probe is not None:
        _check_layer(module, kwargs)
        _probe[module.layer_idx] = LayerShape(key.shape[1], key.shape[-1], value.shape[-1])
        return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[-1]), None
    if _step is None:
        raise RuntimeError("attention over pages needs a step")
    step, layer = _step, module.layer_idx
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    step.pool.write(layer, key, value, step)
    return step.pool.attend(layer, query, step, scale, sliding_window, softcap), None


def _check_layer(module: Any, kwargs: dict[str, Any]) -> None:
    if getattr(module, "layer_idx", None) is None:
        raise E_MODEL(f"{type(module).__name__} has no layer index: its pages cannot be told apart")
    if not getattr(module, "is_causal", True):
        raise E_MODEL(f"{type(module).__name__} attends to later tokens; only causal models run")
    for name in ("position_bias", "s_aux"):
        if kwargs.get(name) is not None:
            raise E_MODEL(f"{type(module).__name__} needs {name}, which is not supported")
