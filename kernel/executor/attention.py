"""Attention over pages, in the place where transformers calls its attention function.

transformers hands every layer's query, key and value to the function registered under
`ATTENTION_NAME`. Ours writes keys and values straight to the layer's pool, by slot, and reads what
each token may see through the step's views. The tokens of a step are packed into one row: first
one token of each decoding sequence, then the prefill chunks.

The step in progress is a module variable, because not every architecture passes keyword
arguments through to its attention: one forward pass at a time in a process.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from llmos.syscalls.errors import E_MODEL

ATTENTION_NAME = "llmos_paged"
Window = int | None


@dataclass(frozen=True)
class LayerShape:
    """One layer's share of a token: key heads and dimensions, and how far back it looks."""

    num_heads: int
    key_dim: int
    value_dim: int


class KeyValuePool:
    """Per layer, keys and values of every slot; slot = page x page_size + place in the page."""

    def __init__(
        self,
        layers: Sequence[LayerShape],
        *,
        num_pages: int,
        page_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        slots = num_pages * page_size
        self.keys = [
            _make_zeros((slots, one.num_heads, one.key_dim), dtype, device) for one in layers
        ]
        self.values = [
            _make_zeros((slots, one.num_heads, one.value_dim), dtype, device) for one in layers
        ]

    def gather(self, pool: torch.Tensor, pages: torch.Tensor) -> torch.Tensor:
        """The slots of `pages` [n, m] as [n, heads, m x page_size, dim]."""
        _, num_heads, dim = pool.shape
        rows = pool.view(self.num_pages, -1).index_select(0, pages.view(-1))
        return rows.view(pages.shape[0], -1, num_heads, dim).transpose(1, 2)


def _make_zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros (a masked slot must not hold NaN). On the host the memory is untouched until used."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    numbers = np.zeros(shape, np.float32 if dtype.itemsize == 4 else np.int16)
    return torch.from_numpy(numbers).view(dtype)


@dataclass(frozen=True)
class Chunk:
    """A run of new tokens of one sequence: rows [row, row + num_new) of the step."""

    row: int
    num_new: int
    num_before: int
    pages: Sequence[int]


@dataclass(frozen=True)
class View:
    """The pages that some queries read, and what they may see of them, as an additive mask."""

    pages: torch.Tensor
    mask: torch.Tensor


@dataclass
class Step:
    """What one forward pass reads and writes. Views are built once per window width."""

    pool: KeyValuePool
    slots: torch.Tensor
    num_decodes: int
    chunks: list[Chunk]
    dtype: torch.dtype
    _views: dict[tuple[Window, int], View] = field(default_factory=dict)

    def find_decode_view(self, window: Window) -> View:
        """Pages [n, m] and mask [n, 1, 1, m x page_size] of the decoding sequences."""
        if (window, -1) not in self._views:
            decodes = self.chunks[: self.num_decodes]
            self._views[window, -1] = self._build_view(decodes, window)
        return self._views[window, -1]

    def find_chunk_view(self, index: int, window: Window) -> View:
        """Pages [1, m] and mask [1, 1, num_new, m x page_size] of a prefill chunk."""
        if (window, index) not in self._views:
            self._views[window, index] = self._build_view([self.chunks[index]], window)
        return self._views[window, index]

    def _build_view(self, chunks: list[Chunk], window: Window) -> View:
        """Chunks of equal num_new side by side, each from the first page that it still sees."""
        size, num_new = self.pool.page_size, chunks[0].num_new
        before = np.array([chunk.num_before for chunk in chunks])
        first = np.zeros_like(before) if window is None else (before - window + 1).clip(0) // size
        last = (before + num_new - 1) // size + 1
        pages = np.zeros((len(chunks), int((last - first).max())), np.int64)
        for row, chunk in enumerate(chunks):
            seen = chunk.pages[first[row] : last[row]]
            pages[row, : len(seen)] = seen
        keys = (first * size)[:, None, None] + np.arange(pages.shape[1] * size)
        queries = before[:, None, None] + np.arange(num_new)[:, None]
        hidden = keys > queries
        if window is not None:
            hidden |= keys <= queries - window
        device = self.slots.device
        mask = torch.zeros(hidden.shape, dtype=self.dtype, device=device)
        mask.masked_fill_(torch.from_numpy(hidden).to(device), float("-inf"))
        return View(torch.from_numpy(pages).to(device), mask.unsqueeze(1))


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
    keys, values = step.pool.keys[layer], step.pool.values[layer]
    keys.index_copy_(0, step.slots, key[0].transpose(0, 1))
    values.index_copy_(0, step.slots, value[0].transpose(0, 1))
    parts = []
    if step.num_decodes:
        view = step.find_decode_view(sliding_window)
        k, v = step.pool.gather(keys, view.pages), step.pool.gather(values, view.pages)
        parts.append(_attend_decodes(query[:, :, : step.num_decodes], k, v, view, scale, softcap))
    for index in range(step.num_decodes, len(step.chunks)):
        chunk, view = step.chunks[index], step.find_chunk_view(index, sliding_window)
        k, v = step.pool.gather(keys, view.pages), step.pool.gather(values, view.pages)
        rows = query[:, :, chunk.row : chunk.row + chunk.num_new]
        parts.append(_weigh(rows, k, v, view.mask, scale, softcap).transpose(1, 2))
    return (parts[0] if len(parts) == 1 else torch.cat(parts, 1)), None


def _attend_decodes(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    view: View,
    scale: float,
    softcap: float | None,
) -> torch.Tensor:
    """One query token per sequence. Query heads that share a key head lie side by side as if
    they were tokens, so that keys are read once and not repeated."""
    _, num_query_heads, num_rows, dim = query.shape
    rows = query[0].transpose(0, 1).reshape(num_rows, key.shape[1], -1, dim)
    out = _weigh(rows, key, value, view.mask, scale, softcap)
    return out.reshape(1, num_rows, num_query_heads, value.shape[-1])


def _weigh(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    scale: float,
    softcap: float | None,
) -> torch.Tensor:
    """Softmax of scaled (and soft-capped) products, times the values: [n, heads, tokens, dim]."""
    if softcap is None:
        grouped = query.shape[1] != key.shape[1]
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scale, enable_gqa=grouped
        )
    num_rows, num_query_heads, num_tokens, dim = query.shape
    groups = query.reshape(num_rows, key.shape[1], -1, num_tokens, dim)
    scores = torch.matmul(groups, key.unsqueeze(2).transpose(-1, -2)) * scale
    scores = torch.tanh(scores / softcap) * softcap + mask.unsqueeze(1)
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(query.dtype)
    out = torch.matmul(weights, value.unsqueeze(2))
    return out.reshape(num_rows, num_query_heads, num_tokens, -1)


def _check_layer(module: Any, kwargs: dict[str, Any]) -> None:
    if getattr(module, "layer_idx", None) is None:
        raise E_MODEL(f"{type(module).__name__} has no layer index: its pages cannot be told apart")
    if not getattr(module, "is_causal", True):
        raise E_MODEL(f"{type(module).__name__} attends to later tokens; only causal models run")
    for name in ("position_bias", "s_aux"):
        if kwargs.get(name) is not None:
            raise E_MODEL(f"{type(module).__name__} needs {name}, which is not supported")
