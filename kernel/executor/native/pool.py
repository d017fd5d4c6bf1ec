"""Keys and values in pages as the compiled attention reads them, and its calls."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ...devices import fits_kernels
from .library import allocate_host, load_library

if TYPE_CHECKING:
    from ..attention import Chunk, LayerShape, Step

PAGE_SIZE = 16


def fits(layers: Sequence["LayerShape"]) -> bool:
    """Whether the compiled attention can run these layers."""
    return all(fits_kernels(one.key_dim, one.value_dim) for one in layers)


class NativePool:
    """Per layer, keys and values of every page, in the order of attention.c."""

    def __init__(self, layers: Sequence["LayerShape"], *, num_pages: int) -> None:
        self._library = load_library()
        self._layers = layers
        self.page_size = PAGE_SIZE
        slots = num_pages * PAGE_SIZE
        self.keys = [allocate_host(slots * one.num_heads * one.key_dim) for one in layers]
        self.values = [allocate_host(slots * one.num_heads * one.value_dim) for one in layers]
        self.resize(num_pages)

    def resize(self, num_pages: int) -> None:
        """`keys` and `values` have so many pages now; what was known of a step is forgotten."""
        self.num_pages = num_pages
        self._pointers = [
            (keys.data_ptr(), values.data_ptr())
            for keys, values in zip(self.keys, self.values, strict=True)
        ]
        self._step: Step | None = None

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor, step: "Step") -> None:
        """Put the step's keys and values [1, heads, tokens, dim] into their slots."""
        shape = self._layers[layer]
        key, value = _lay_out(key), _lay_out(value)
        keys, values = self._pointers[layer]
        self._library.llmos_write(
            key.data_ptr(), value.data_ptr(), key.stride(1), key.stride(2), value.stride(1),
            value.stride(2), step.slots.ctypes.data, key.shape[2], shape.num_heads, shape.key_dim,
            shape.value_dim, keys, values,
        )  # fmt: skip

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        step: "Step",
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:
        """[1, query heads, tokens, dim] to [1, tokens, query heads, value dim]."""
        shape = self._layers[layer]
        dtype, query = query.dtype, _lay_out(query)
        num_query_heads, num_tokens = query.shape[1:3]
        out = query.new_empty(1, num_tokens, num_query_heads, shape.value_dim)
        if step is not self._step:
            self.prepare(step, _describe(step.chunks))
        keys, values = self._pointers[layer]
        self._library.llmos_attend(
            query.data_ptr(), query.stride(1), query.stride(2), out.data_ptr(), keys, values,
            shape.num_heads, num_query_heads // shape.num_heads, shape.key_dim, shape.value_dim,
            *self._chunks, scale, softcap or 0.0, window or 0,
        )  # fmt: skip
        return out.to(dtype)

    def prepare(self, step: "Step", columns: NDArray[np.int64]) -> None:
        """Take a step's chunks as the kernel reads them, a column each of [4, chunks]: row, new
        tokens, tokens before, address of the page table. Until the next step is prepared, what
        they say may be changed in place.
        """
        self._step, self._columns = step, columns
        self._chunks = (columns.shape[1], *(row.ctypes.data for row in columns))


def _describe(chunks: Sequence["Chunk"]) -> NDArray[np.int64]:
    """The columns of these chunks, whose arrays have to stay where they are."""
    numbers = [(one.row, one.num_new, one.num_before, one.pages.ctypes.data) for one in chunks]
    return np.array(numbers, np.int64).T.copy()


def _lay_out(x: torch.Tensor) -> torch.Tensor:
    """In bfloat16, the last dimension's numbers side by side; itself if it is so."""
    x = x.to(torch.bfloat16)
    return x if x.stride(3) == 1 else x.contiguous()
