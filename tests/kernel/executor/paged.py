"""Sequences of random queries, keys and values, and attention over them in any cuts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from llmos.kernel.executor.attention import Chunk, LayerShape, Pool, Step, Window
from llmos.kernel.executor.native.pool import NativePool
from llmos.kernel.executor.plain import PlainPool
from llmos.kernel.executor.slots import SlotPool

PAGE_SIZE = 16
NUM_PAGES = 40
AnySlots = TypeVar("AnySlots", bound=SlotPool)
Cut = tuple[int, int, int]  # of a sequence, the tokens from a start to an end


@dataclass(frozen=True)
class Attention:
    """One layer's attention."""

    num_heads: int = 2
    num_groups: int = 2
    key_dim: int = 32
    value_dim: int = 32
    window: Window = None
    softcap: float | None = None

    @property
    def layer(self) -> LayerShape:
        return LayerShape(self.num_heads, self.key_dim, self.value_dim)


class Story:
    """Sequences with their pages, computed in any cuts; queries [tokens, heads, dim]."""

    def __init__(
        self,
        kind: Attention,
        lengths: Sequence[int],
        *,
        page_seed: int = 0,
        dtype: torch.dtype = torch.bfloat16,
        device: str = "cpu",
    ) -> None:
        generator = torch.Generator().manual_seed(1)

        def draw(length: int, num_heads: int, dim: int) -> torch.Tensor:
            return torch.randn(length, num_heads, dim, generator=generator).to(device, dtype)

        self.kind, self.dtype, self.device = kind, dtype, torch.device(device)
        num_query_heads = kind.num_heads * kind.num_groups
        self.queries = [draw(length, num_query_heads, kind.key_dim) for length in lengths]
        self.keys = [draw(length, kind.num_heads, kind.key_dim) for length in lengths]
        self.values = [draw(length, kind.num_heads, kind.value_dim) for length in lengths]
        pages = np.random.default_rng(page_seed).permutation(NUM_PAGES).astype(np.int32)
        counts = [-(-length // PAGE_SIZE) for length in lengths]
        self.tables = np.split(pages, np.cumsum(counts))[: len(lengths)]

    def make_native(self) -> NativePool:
        return NativePool([self.kind.layer], num_pages=NUM_PAGES)

    def make_plain(self) -> PlainPool:
        return self.make_slots(PlainPool)

    def make_slots(self, kind: type[AnySlots]) -> AnySlots:
        return kind(
            [self.kind.layer],
            num_pages=NUM_PAGES,
            page_size=PAGE_SIZE,
            dtype=self.dtype,
            device=self.device,
        )

    def run(self, pool: Pool, *steps: Sequence[Cut]) -> list[torch.Tensor]:
        """What each sequence's computed tokens got, [tokens, heads, value dim], step by step."""
        found: list[list[torch.Tensor]] = [[] for _ in self.queries]
        for cuts in steps:
            cuts = sorted(cuts, key=lambda cut: cut[2] - cut[1] > 1)
            out, row = self._run_step(pool, cuts), 0
            for sequence, start, stop in cuts:
                found[sequence].append(out[row : row + stop - start])
                row += stop - start
        return [torch.cat(rows) if rows else torch.empty(0) for rows in found]

    def _run_step(self, pool: Pool, cuts: Sequence[Cut]) -> torch.Tensor:
        step, kind = self._build_step(pool, cuts), self.kind

        def pack(parts: list[torch.Tensor]) -> torch.Tensor:
            rows = [parts[sequence][start:stop] for sequence, start, stop in cuts]
            return torch.cat(rows).transpose(0, 1).unsqueeze(0)

        pool.write(0, pack(self.keys), pack(self.values), step)
        scale = kind.key_dim**-0.5
        return pool.attend(0, pack(self.queries), step, scale, kind.window, kind.softcap)[0]

    def _build_step(self, pool: Pool, cuts: Sequence[Cut]) -> Step:
        slots, chunks, row = [], [], 0
        for sequence, start, stop in cuts:
            places = np.arange(start, stop)
            table = self.tables[sequence]
            slots.append(table[places // PAGE_SIZE].astype(np.int64) * PAGE_SIZE + places % 16)
            chunks.append(Chunk(row, stop - start, start, table))
            row += stop - start
        num_decodes = sum(stop - start == 1 for _, start, stop in cuts)
        return Step(pool, np.concatenate(slots), num_decodes, chunks)

    def compute(self, sequence: int) -> torch.Tensor:
        """The same in float32, by the definition."""
        kind = self.kind
        query = self.queries[sequence].float().transpose(0, 1)
        key, value = (
            one[sequence].float().transpose(0, 1).repeat_interleave(kind.num_groups, 0)
            for one in (self.keys, self.values)
        )
        scores = query @ key.transpose(1, 2) * kind.key_dim**-0.5
        if kind.softcap:
            scores = torch.tanh(scores / kind.softcap) * kind.softcap
        place = torch.arange(scores.shape[-1], device=self.device)
        seen = place <= place[:, None]
        if kind.window:
            seen &= place > place[:, None] - kind.window
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        result: torch.Tensor = (weights @ value).transpose(0, 1)
        return result


def measure_error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The distance of two tensors as a share of the second."""
    return float((found.float() - wanted.float()).norm() / wanted.float().norm())
