"""Decode steps of a few fixed sizes, over tensors that stay in place, from captured CUDA graphs.

A step of n single tokens runs as one of the next larger size. The rows past n are padding: they
write no keys and values, see nothing, and nobody reads their logits. So a size's forward pass does
the same work on the same tensors each time, and on CUDA it is recorded once and replayed: one
launch instead of some hundreds. Elsewhere, or where recording fails, the same pass runs as it is.
"""

import functools
import logging
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from .attention import Step, using
from .batch import Work, is_decode, pack
from .gpu.layout import TILE_FIELDS, Layout
from .model import Model

if TYPE_CHECKING:
    from .gpu.pool import TritonPool

_log = logging.getLogger(__name__)
_SMALL_SIZES = (1, 2, 4)
_STRIDES = ((32, 8), (128, 16))  # up to this size, sizes are so far apart
_LARGE_STRIDE = 32


class Graph(Protocol):
    """A recorded pass: torch.cuda.CUDAGraph's share that is used here."""

    def replay(self) -> None:
        """Do the same again."""
        ...

    def pool(self) -> Any:
        """The memory that other graphs may use too."""
        ...


Record = Callable[[Callable[[], None], Graph | None], Graph]


@dataclass(frozen=True, eq=False)
class Rows:
    """What a step is given, a row for each token."""

    tokens: torch.Tensor
    positions: torch.Tensor
    slots: torch.Tensor
    tiles: torch.Tensor
    tables: torch.Tensor

    @classmethod
    def make(cls, num_rows: int, num_pages: int, device: torch.device, *, pin: bool) -> "Rows":
        """Rows of zeros, tables for contexts of `num_pages` pages."""

        def make_zeros(*shape: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros(shape, dtype=dtype, device=device, pin_memory=pin)

        tokens, positions, slots = (make_zeros(num_rows, dtype=torch.int64) for _ in range(3))
        tiles = make_zeros(num_rows, TILE_FIELDS, dtype=torch.int32)
        tables = make_zeros(num_rows, num_pages, dtype=torch.int32)
        return cls(tokens, positions, slots, tiles, tables)

    def copy_from(self, other: "Rows", num_rows: int) -> None:
        """Take the first rows of others, which may not change before the device has them."""
        for field in fields(self):
            own, new = getattr(self, field.name), getattr(other, field.name)
            own[:num_rows].copy_(new[:num_rows], non_blocking=True)


class PaddedDecoder:
    """The decode steps of a model: up to `max_running` sequences at once."""

    def __init__(self, model: Model, pool: "TritonPool", *, max_running: int) -> None:
        self._model = model
        self._pool = pool
        self._sizes = list_sizes(max_running)
        num_pages = min(-(-model.max_model_len // pool.page_size), pool.num_pages)
        most, is_cuda = self._sizes[-1], model.device.type == "cuda"
        self._host = Rows.make(most, num_pages, torch.device("cpu"), pin=is_cuda)
        self._rows = Rows.make(most, num_pages, model.device, pin=False)
        self._all = torch.arange(most, device=model.device)
        self._steps = {size: self._make_step(size, num_pages) for size in self._sizes}
        self._logits = torch.empty(0)
        self._graphs: dict[int, Graph] = {}
        self._num_rows = self._size = 0

    def _make_step(self, size: int, num_pages: int) -> tuple[Step, Layout]:
        rows, pool = self._rows, self._pool
        layout = Layout(
            rows.slots[:size],
            rows.tiles[:size],
            rows.tables[:size],
            max_tokens=num_pages * pool.page_size,
        )
        return Step(pool, np.zeros(0, np.int64), size, []), layout

    def forget_recordings(self) -> None:
        """The pool's tensors are about to be others: steps run as they are from now on."""
        self._graphs.clear()

    def takes(self, works: Seq[Work]) -> bool:
        """Whether all that is to do is to decode."""
        return len(works) <= self._sizes[-1] and is_decode(works)

    def load(self, works: Seq[Work]) -> None:
        """Put the work's numbers where a pass reads them."""
        self._num_rows = len(works)
        self._size = next(size for size in self._sizes if size >= len(works))
        self._fill(works, self._size)

    def compute_logits(self) -> torch.Tensor:
        """Logits [works, vocabulary] of what was loaded, valid until the next call."""
        if self._size in self._graphs:
            self._graphs[self._size].replay()
        else:
            self._run(self._size)
        return self._logits[: self._num_rows]

    def _fill(self, works: Seq[Work], size: int) -> None:
        host, num_rows = self._host, len(works)
        tokens, places, slots = pack(works, self._pool.page_size)
        host.tokens.numpy()[:num_rows] = tokens
        host.positions.numpy()[:num_rows] = places
        host.slots.numpy()[:num_rows] = slots
        host.slots.numpy()[num_rows:size] = -1
        tiles = host.tiles.numpy()
        tiles[:size, 0] = tiles[:size, 3] = np.arange(size)
        tiles[:num_rows, 1] = places
        tiles[:num_rows, 2] = 1
        tiles[num_rows:size, 1:3] = 0
        for row, work in zip(host.tables.numpy(), works, strict=False):
            table = work.sequence.pages.numbers
            row[: len(table)] = table
        host.tokens.numpy()[num_rows:size] = host.positions.numpy()[num_rows:size] = 0
        self._rows.copy_from(host, size)

    def _run(self, size: int) -> None:
        """One pass over what is in the rows. Its logits go to one place, so that graphs may use
        each other's memory."""
        step, layout = self._steps[size]
        rows = self._rows
        self._pool.prepare(step, layout)
        with using(step):
            logits = self._model.compute_logits(
                rows.tokens[:size], rows.positions[:size], self._all[:size]
            )
        if not len(self._logits):
            self._logits = logits.new_empty(len(self._all), logits.shape[1])
        self._logits[:size].copy_(logits)

    @torch.inference_mode()
    def capture(self, record: Record | None = None) -> int:
        """Record every size, the largest first: the others use its memory. How many there are.

        Without `record` CUDA does it, where the model is there. A model whose pass looks at its
        own numbers cannot be recorded; it runs all the same.
        """
        if record is None and self._model.device.type != "cuda":
            return 0
        record = record or record_graph
        largest: Graph | None = None
        try:
            for size in reversed(self._sizes):
                self._fill([], size)
                self._graphs[size] = record(functools.partial(self._run, size), largest)
                largest = largest or self._graphs[size]
        except RuntimeError as error:
            self._graphs.clear()
            reason = str(error).strip().partition("\n")[0]
            name = self._model.architecture
            _log.warning("decode without CUDA graphs: %s cannot be captured: %s", name, reason)
        return len(self._graphs)


def record_graph(run: Callable[[], None], largest: Graph | None) -> Graph:
    """Run once so that everything is compiled and in place, then once more to record it."""
    main = torch.cuda.current_stream()
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(main)
    with torch.cuda.stream(side):
        run()
    main.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    memory = largest.pool() if largest else None
    with torch.cuda.graph(graph, pool=memory, capture_error_mode="thread_local"):
        run()
    return graph


def list_sizes(max_running: int) -> list[int]:
    """The sizes of padded steps up to the first that holds `max_running` tokens, rising.

    A step does less than twice the rows that it needs, and the more the nearer to that.
    """
    sizes = list(_SMALL_SIZES)
    for end, stride in (*_STRIDES, (max(max_running, _STRIDES[-1][0]) + _LARGE_STRIDE, 32)):
        sizes += range(sizes[-1] // stride * stride + stride, end + 1, stride)
    return [size for size, before in zip(sizes, [0, *sizes], strict=False) if before < max_running]
