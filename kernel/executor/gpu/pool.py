"""Keys and values in pages on a GPU: they are read where they are, never gathered."""

import torch

from ..attention import LayerShape, Step, Window
from ..slots import SlotPool
from . import ops
from .blocks import Blocks, choose_blocks, count_turns, round_up_to_power
from .layout import Layout, lay_out

_TOKENS_PER_WRITE = 16


class TritonPool(SlotPool):
    """The slots are read where they are. `wanted_programs` keep the device busy."""

    wanted_programs = 1

    def resize(self, num_pages: int) -> None:
        """`keys` and `values` have so many pages now; what was known of a step is forgotten."""
        super().resize(num_pages)
        self._layout: Layout | None = None

    def prepare(self, step: Step, layout: Layout) -> None:
        """Run this step by a layout that its maker keeps up to date."""
        self._step, self._layout = step, layout

    def _find_layout(self, step: Step) -> Layout:
        if step is not self._step or self._layout is None:
            self.prepare(step, lay_out(step, self._device))
        assert self._layout is not None
        return self._layout

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor, step: Step) -> None:
        """Put the step's keys and values [1, heads, tokens, dim] into their slots."""
        shape, layout = self._layers[layer], self._find_layout(step)
        key, value = _lay_flat(key), _lay_flat(value)
        num_tokens = key.shape[2]
        ops.write[(-(-num_tokens // _TOKENS_PER_WRITE), shape.num_heads)](
            key, value, layout.slots, self.keys[layer], self.values[layer], num_tokens,
            key.stride(1), key.stride(2), value.stride(1), value.stride(2),
            NUM_HEADS=shape.num_heads, KEY_DIM=shape.key_dim, VALUE_DIM=shape.value_dim,
            BLOCK_T=_TOKENS_PER_WRITE, BLOCK_K=round_up_to_power(shape.key_dim),
            BLOCK_V=round_up_to_power(shape.value_dim),
        )  # fmt: skip

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        step: Step,
        scale: float,
        window: Window,
        softcap: float | None,
    ) -> torch.Tensor:
        """[1, query heads, tokens, dim] to [1, tokens, query heads, value dim].

        Padding's rows are 0.
        """
        layout, shape = self._find_layout(step), self._layers[layer]
        query = _lay_flat(query)
        num_query_heads, num_tokens = query.shape[1:3]
        num_groups = num_query_heads // shape.num_heads
        out = query.new_zeros(1, num_tokens, num_query_heads, shape.value_dim)

        def launch(tiles: torch.Tensor, blocks: Blocks, num_turns: int) -> None:
            self._launch(layer, query, out, tiles, blocks, num_turns, scale, window, softcap)

        itemsize_bytes = self.keys[layer].element_size()
        if len(layout.decodes):
            blocks = choose_blocks(
                shape, num_groups=num_groups, itemsize_bytes=itemsize_bytes, is_decode=True
            )
            launch(layout.decodes, blocks, self._count_turns(layout, shape, window))
        if layout.has_prefills:
            blocks = choose_blocks(
                shape, num_groups=num_groups, itemsize_bytes=itemsize_bytes, is_decode=False
            )
            launch(layout.cut(blocks.num_rows // num_groups), blocks, 1)
        return out

    def _count_turns(self, layout: Layout, shape: LayerShape, window: Window) -> int:
        return count_turns(
            len(layout.decodes) * shape.num_heads,
            wanted_programs=self.wanted_programs,
            max_tokens=min(layout.max_tokens, window or layout.max_tokens),
        )

    def _launch(
        self,
        layer: int,
        query: torch.Tensor,
        out: torch.Tensor,
        tiles: torch.Tensor,
        blocks: Blocks,
        num_turns: int,
        scale: float,
        window: Window,
        softcap: float | None,
    ) -> None:
        shape, layout = self._layers[layer], self._layout
        assert layout is not None
        num_query_heads = query.shape[1]
        parts, lse = out, out
        if num_turns > 1:
            parts = out.new_empty(num_turns, *out.shape[1:], dtype=torch.float32)
            lse = parts.new_empty(num_turns, *out.shape[1:3])
        ops.attend[(len(tiles), shape.num_heads, num_turns)](
            query, self.keys[layer], self.values[layer], parts, lse, tiles, layout.tables,
            layout.tables.stride(0), query.stride(1), query.stride(2),
            out.stride(2), out.stride(1), parts.stride(0), lse.stride(0),
            float(scale), float(softcap or 0.0),
            NUM_HEADS=shape.num_heads, NUM_GROUPS=num_query_heads // shape.num_heads,
            KEY_DIM=shape.key_dim, VALUE_DIM=shape.value_dim,
            WINDOW=window or 0, HAS_SOFTCAP=softcap is not None, NUM_TURNS=num_turns,
            PAGE_SIZE=self.page_size, BLOCK_M=blocks.num_rows, BLOCK_N=blocks.num_keys,
            BLOCK_K=blocks.key_dim, BLOCK_V=blocks.value_dim,
            num_warps=blocks.num_warps, num_stages=blocks.num_stages,
        )  # fmt: skip
        if num_turns > 1:
            ops.combine[(len(tiles), num_query_heads)](
                parts, lse, tiles, out, parts.stride(0), lse.stride(0),
                NUM_QUERY_HEADS=num_query_heads, VALUE_DIM=shape.value_dim, NUM_TURNS=num_turns,
                BLOCK_T=num_turns, BLOCK_V=round_up_to_power(shape.value_dim),
            )  # fmt: skip


def _lay_flat(x: torch.Tensor) -> torch.Tensor:
    """The last dimension's numbers side by side; itself if it is so."""
    return x if x.stride(3) == 1 else x.contiguous()
