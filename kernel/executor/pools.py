"""A model's pool of keys and values, and its decode steps: compiled, Triton's, or torch's own."""

from collections.abc import Sequence as Seq
from typing import TYPE_CHECKING, Protocol, Union, cast

import torch

from .batch import Work
from .gpu.support import count_programs
from .model import Model
from .native.pool import NativePool
from .padded import PaddedDecoder
from .plain import PlainPool
from .recorded import RecordedDecoder

if TYPE_CHECKING:
    from .gpu.pool import TritonPool

AnyPool = Union[NativePool, PlainPool, "TritonPool"]


class Decoder(Protocol):
    """Runs steps of single tokens in a way that costs less than to call the network."""

    def capture(self) -> int:
        """Record beforehand what can be; how many steps are recorded."""
        ...

    def takes(self, works: Seq[Work]) -> bool:
        """Whether it can run this work."""
        ...

    def load(self, works: Seq[Work]) -> None:
        """Put the work's numbers where a pass reads them."""
        ...

    def compute_logits(self) -> torch.Tensor:
        """Logits [works, vocabulary] of what was loaded, valid until the next call."""
        ...

    def forget_recordings(self) -> None:
        """The pool's tensors are about to be others."""
        ...


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


def make_decoder(model: Model, pool: AnyPool, *, max_running: int) -> Decoder | None:
    """The decode steps over a model's pool, where the device has a way of its own."""
    if isinstance(pool, NativePool):
        return RecordedDecoder(model, pool, max_running=max_running)
    if model.is_triton:
        return PaddedDecoder(model, cast("TritonPool", pool), max_running=max_running)
    return None
