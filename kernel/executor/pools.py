"""The pool of keys and values for a model: the compiled one, Triton's, or by what torch has."""

from typing import TYPE_CHECKING, Union

from .gpu.support import count_programs
from .model import Model
from .native.pool import NativePool
from .plain import PlainPool

if TYPE_CHECKING:
    from .gpu.pool import TritonPool

AnyPool = Union[NativePool, PlainPool, "TritonPool"]


def make_pool(model: Model, *, num_pages: int, page_size: int) -> AnyPool:
    """A pool of this many empty pages."""
    if model.is_native:
        return NativePool(model.layers, num_pages=num_pages)
    if model.is_triton:
        return make_triton_pool(model, num_pages=num_pages, page_size=page_size)
    return PlainPool(
        model.layers,
        num_pages=num_pages,
        page_size=page_size,
        dtype=model.dtype,
        device=model.device,
    )


def make_triton_pool(model: Model, *, num_pages: int, page_size: int) -> "TritonPool":
    """A pool for Triton's ops, which import triton."""
    from .gpu.pool import TritonPool

    pool = TritonPool(
        model.layers,
        num_pages=num_pages,
        page_size=page_size,
        dtype=model.dtype,
        device=model.device,
    )
    pool.wanted_programs = count_programs(model.device)
    return pool
