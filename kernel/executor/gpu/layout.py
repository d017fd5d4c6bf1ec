"""A step as the ops read it: slots, tiles and page tables, in tensors on its device."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ..attention import Chunk, Step

TILE_FIELDS = 4  # row, position, tokens, row of the page table
_TABLE_STRIDE = 16  # the ops are compiled once for all strides that are a multiple of it


class Layout:
    """Where each token's keys and values go, and what each tile of tokens reads.

    `slots` is int64 [tokens], below 0 for padding; `decodes` int32 [n, 4], a tile for each single
    token; `tables` int32 [chunks, width]; `max_tokens` bounds the contexts.
    """

    def __init__(
        self,
        slots: torch.Tensor,
        decodes: torch.Tensor,
        tables: torch.Tensor,
        *,
        max_tokens: int,
        prefills: "Sequence[tuple[int, Chunk]]" = (),
    ) -> None:
        self.slots = slots
        self.decodes = decodes
        self.tables = tables
        self.max_tokens = max_tokens
        self.has_prefills = bool(prefills)
        self._prefills = prefills
        self._tiles: dict[int, torch.Tensor] = {}

    def cut(self, tile_tokens: int) -> torch.Tensor:
        """The prefill chunks in tiles of at most `tile_tokens` tokens, int32 [m, 4]."""
        if tile_tokens not in self._tiles:
            parts = [_cut(chunk, index, tile_tokens) for index, chunk in self._prefills]
            tiles = torch.from_numpy(np.concatenate(parts))
            self._tiles[tile_tokens] = tiles.to(self.slots.device)
        return self._tiles[tile_tokens]


def lay_out(step: "Step", device: torch.device) -> Layout:
    """A step's layout; contexts are as long as they are."""
    chunks, num_decodes = step.chunks, step.num_decodes
    width = max(len(chunk.pages) for chunk in chunks)
    tables = np.zeros((len(chunks), -(-width // _TABLE_STRIDE) * _TABLE_STRIDE), np.int32)
    for row, chunk in enumerate(chunks):
        tables[row, : len(chunk.pages)] = chunk.pages
    decodes = [_cut(chunk, index, 1) for index, chunk in enumerate(chunks[:num_decodes])]
    tiles = np.concatenate([np.zeros((0, TILE_FIELDS), np.int32), *decodes])
    return Layout(
        torch.from_numpy(step.slots).to(device),
        torch.from_numpy(tiles).to(device),
        torch.from_numpy(tables).to(device),
        max_tokens=max(chunk.num_before + chunk.num_new for chunk in chunks),
        prefills=list(enumerate(chunks))[num_decodes:],
    )


def _cut(chunk: "Chunk", index: int, tile_tokens: int) -> NDArray[np.int32]:
    firsts = np.arange(0, chunk.num_new, tile_tokens, dtype=np.int32)
    tiles = np.empty((len(firsts), TILE_FIELDS), np.int32)
    tiles[:, 0] = chunk.row + firsts
    tiles[:, 1] = chunk.num_before + firsts
    tiles[:, 2] = np.minimum(tile_tokens, chunk.num_new - firsts)
    tiles[:, 3] = index
    return tiles
