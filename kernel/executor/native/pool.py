"""Keys and values in pages as the compiled attention reads them, and its calls."""

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from .library import allocate_host, load_library

if TYPE_CHECKING:
    from ..attention import LayerShape, Step

PAGE_SIZE = 16
_MAX_DIM = 512
_LANES = 16


class _Call(ctypes.Structure):
    """`Attention` of attention.c."""

    _fields_ = (
        ("query", ctypes.c_void_p),
        ("query_head_stride", ctypes.c_long),
        ("query_token_stride", ctypes.c_long),
        ("out", ctypes.c_void_p),
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("num_heads", ctypes.c_long),
        ("num_groups", ctypes.c_long),
        ("key_dim", ctypes.c_long),
        ("value_dim", ctypes.c_long),
        ("num_chunks", ctypes.c_long),
        ("rows", ctypes.c_void_p),
        ("num_new", ctypes.c_void_p),
        ("num_before", ctypes.c_void_p),
        ("pages", ctypes.c_void_p),
        ("scale", ctypes.c_double),
        ("softcap", ctypes.c_double),
        ("window", ctypes.c_long),
    )


def fits(layers: Sequence["LayerShape"]) -> bool:
    """Whether the compiled attention can run these layers."""
    return all(
        one.key_dim % 2 == 0
        and one.value_dim % _LANES == 0
        and max(one.key_dim, one.value_dim) <= _MAX_DIM
        for one in layers
    )


class NativePool:
    """Per layer, keys and values of every page, in the order of attention.c."""

    def __init__(self, layers: Sequence["LayerShape"], *, num_pages: int) -> None:
        self._library = load_library()
        self._layers = layers
        self.page_size = PAGE_SIZE
        slots = num_pages * PAGE_SIZE
        self.keys = [allocate_host(slots * one.num_heads * one.key_dim) for one in layers]
        self.values = [allocate_host(slots * one.num_heads * one.value_dim) for one in layers]
        self._call = _Call()
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
            self._describe(step)
        call = self._call
        call.query, call.out = query.data_ptr(), out.data_ptr()
        call.query_head_stride, call.query_token_stride = query.stride(1), query.stride(2)
        call.keys, call.values = self._pointers[layer]
        call.num_heads, call.num_groups = shape.num_heads, num_query_heads // shape.num_heads
        call.key_dim, call.value_dim = shape.key_dim, shape.value_dim
        call.scale, call.softcap, call.window = scale, softcap or 0.0, window or 0
        self._library.llmos_attend(ctypes.byref(call))
        return out.to(dtype)

    def _describe(self, step: "Step") -> None:
        """What is the same for all layers of a step; the arrays live as long as the step."""
        chunks = step.chunks
        numbers = [(one.row, one.num_new, one.num_before, one.pages.ctypes.data) for one in chunks]
        self._columns = np.array(numbers, np.int64).T.copy()
        self._step = step
        call = self._call
        call.num_chunks = len(chunks)
        call.rows, call.num_new, call.num_before, call.pages = (
            column.ctypes.data for column in self._columns
        )


def _lay_out(x: torch.Tensor) -> torch.Tensor:
    """In bfloat16, the last dimension's numbers side by side; itself if it is so."""
    x = x.to(torch.bfloat16)
    return x if x.stride(3) == 1 else x.contiguous()
