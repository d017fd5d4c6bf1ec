"""Keys and values in pages, and attention over them, by what torch has for every device.

The pages that a query reads are gathered side by side, then torch's own attention runs on them.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from .attention import Chunk, Step, Window
from .slots import SlotPool


@dataclass(frozen=True)
class View:
    """The pages that some queries read, and what they may see of them, as an additive mask."""

    pages: torch.Tensor
    mask: torch.Tensor


class PlainPool(SlotPool):
    """The slots that a step reads are copied side by side."""

    def resize(self, num_pages: int) -> None:
        """`keys` and `values` have so many pages now; what was known of a step is forgotten."""
        super().resize(num_pages)
        self._slots = self._tails = torch.empty(0)
        self._views: dict[tuple[Window, int], View] = {}

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor, step: Step) -> None:
        """Put the step's keys and values [1, heads, tokens, dim] into their slots."""
        if step is not self._step:
            self._step, self._views = step, {}
            self._slots = torch.from_numpy(step.slots).to(self._device)
            self._tails = torch.from_numpy(self._find_tails(step.chunks)).to(self._device)
        for pool, new in ((self.keys[layer], key), (self.values[layer], value)):
            pool.index_copy_(0, self._slots, new[0].transpose(0, 1))
            if len(self._tails):
                pool.index_fill_(0, self._tails, 0)

    def _find_tails(self, chunks: list[Chunk]) -> NDArray[np.int64]:
        """The slots after the last token, in pages that it is the first step to write to.

        What an earlier owner left there is masked, and yet must not be infinite or no number.
        """
        size, tails = self.page_size, [np.zeros(0, np.int64)]
        for chunk in chunks:
            end = chunk.num_before + chunk.num_new
            if (end - 1) // size * size >= chunk.num_before:
                page = int(chunk.pages[(end - 1) // size])
                tails.append(np.arange(page * size + (end - 1) % size + 1, (page + 1) * size))
        return np.concatenate(tails)

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
        parts = []
        if step.num_decodes:
            view = self._find_view(step, slice(0, step.num_decodes), window)
            keys, values = self._gather(layer, view.pages)
            rows = query[:, :, : step.num_decodes]
            parts.append(_attend_decodes(rows, keys, values, view, scale, softcap))
        for index in range(step.num_decodes, len(step.chunks)):
            chunk, view = step.chunks[index], self._find_view(step, slice(index, index + 1), window)
            keys, values = self._gather(layer, view.pages)
            rows = query[:, :, chunk.row : chunk.row + chunk.num_new]
            parts.append(_weigh(rows, keys, values, view.mask, scale, softcap).transpose(1, 2))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def _gather(self, layer: int, pages: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The slots of `pages` [n, m] as [n, heads, m x page_size, dim], keys and values."""
        gathered = []
        for pool in (self.keys[layer], self.values[layer]):
            _, num_heads, dim = pool.shape
            rows = pool.view(self.num_pages, -1).index_select(0, pages.view(-1))
            gathered.append(rows.view(pages.shape[0], -1, num_heads, dim).transpose(1, 2))
        return gathered[0], gathered[1]

    def _find_view(self, step: Step, chunks: slice, window: Window) -> View:
        """Built once a step for all layers of a window: pages [n, m] and mask
        [n, 1, num_new, m x page_size]."""
        key = window, chunks.start
        if key not in self._views:
            self._views[key] = self._build_view(step.chunks[chunks], window)
        return self._views[key]

    def _build_view(self, chunks: list[Chunk], window: Window) -> View:
        """Chunks of equal num_new side by side, each from the first page that it still sees."""
        size, num_new = self.page_size, chunks[0].num_new
        before = np.array([chunk.num_before for chunk in chunks])
        first = np.zeros_like(before) if window is None else (before - window + 1).clip(0) // size
        last = (before + num_new - 1) // size + 1
        pages = np.empty((len(chunks), int((last - first).max())), np.int64)
        for row, chunk in enumerate(chunks):
            seen = chunk.pages[first[row] : last[row]]
            pages[row, : len(seen)] = seen
            pages[row, len(seen) :] = seen[-1]  # masked, and no other sequence's
        keys = (first * size)[:, None, None] + np.arange(pages.shape[1] * size)
        queries = before[:, None, None] + np.arange(num_new)[:, None]
        hidden = keys > queries
        if window is not None:
            hidden |= keys <= queries - window
        mask = torch.zeros(hidden.shape, dtype=self._dtype, device=self._device)
        mask.masked_fill_(torch.from_numpy(hidden).to(self._device), float("-inf"))
        return View(torch.from_numpy(pages).to(self._device), mask.unsqueeze(1))


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
