"""A recorded pass, made again: the same calls in the same order, without the network's own code.

Results that only kernels touch share one arena: two of them lie in the same place if they are not
needed at the same time (the first gap that fits, in the order of their beginnings). That keeps a
step's numbers in the processor's caches.
"""

import ctypes
from collections.abc import Callable, Iterable
from functools import partial
from itertools import groupby
from typing import Any

import torch

from .library import POINTER, PROTOTYPES, Library
from .recording import Buffer, KernelCall, Place, Recorder, TorchCall

_ALIGNMENT = 64
_MOST_ARGUMENTS = 18  # MOST_ARGUMENTS of replay.c
_FIELDS = {POINTER: "p", ctypes.c_long: "n", ctypes.c_double: "d"}


class _Argument(ctypes.Union):
    """`Argument` of replay.c."""

    _fields_ = (("p", ctypes.c_void_p), ("n", ctypes.c_long), ("d", ctypes.c_double))


class _Call(ctypes.Structure):
    """`Call` of replay.c."""

    _fields_ = (("kernel", ctypes.c_void_p), ("arguments", _Argument * _MOST_ARGUMENTS))


class Arena:
    """Memory for the results of one pass at a time."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)

    def reserve(self, num_bytes: int) -> torch.Tensor:
        """At least so many bytes, the same for all who reserve until more are needed."""
        if len(self._memory) < num_bytes:
            self._memory = torch.empty(num_bytes, dtype=torch.uint8)
        return self._memory


class Program:
    """What a recorder has recorded."""

    def __init__(
        self, library: Library, recorder: Recorder, result: torch.Tensor, arena: Arena
    ) -> None:
        """`result` is what the recorded pass gave, still alive."""
        movable = [one for one in recorder.buffers if not one.is_kept]
        self._offsets, num_bytes = lay_out(movable, len(recorder.calls))
        self._memory = arena.reserve(num_bytes)
        self._library = library
        self._steps: list[Callable[[], None]] = []
        for kind, calls in groupby(recorder.calls, type):
            together: list[Any] = list(calls)
            self._steps += [self._build(together)] if kind is KernelCall else together
        self.num_torch_calls = sum(isinstance(one, TorchCall) for one in recorder.calls)
        self.num_kept_bytes = sum(one.num_bytes for one in recorder.buffers if one.is_kept)
        self._result = self._move(result, recorder.find(result))

    def run(self) -> torch.Tensor:
        """The result, in memory that the next program with the same arena overwrites."""
        for step in self._steps:
            step()
        return self._result

    def _build(self, calls: list[Any]) -> Callable[[], None]:
        """Kernel calls that follow each other, as one call."""
        array = (_Call * len(calls))()
        for slot, call in zip(array, calls, strict=True):
            slot.kernel = self._library.find_address(call.name)
            for argument, kind, value in zip(
                slot.arguments, PROTOTYPES[call.name], call.arguments, strict=False
            ):
                setattr(argument, _FIELDS[kind], self._resolve(value))
        return partial(self._library.llmos_replay, array, len(calls))

    def _resolve(self, value: Any) -> Any:
        if not isinstance(value, Place):
            return value
        if value.buffer.is_kept:
            return value.buffer.address + value.offset_bytes
        return self._memory.data_ptr() + self._offsets[value.buffer] + value.offset_bytes

    def _move(self, result: torch.Tensor, place: Place | None) -> torch.Tensor:
        """The result where the calls put it."""
        if place is None or place.buffer.is_kept:
            return result
        start = self._offsets[place.buffer]
        memory = self._memory[start : start + place.buffer.num_bytes].view(result.dtype)
        offset = place.offset_bytes // result.element_size()
        return memory.as_strided(result.shape, result.stride(), memory.storage_offset() + offset)


def lay_out(buffers: Iterable[Buffer], num_calls: int) -> tuple[dict[Buffer, int], int]:
    """Offsets of these buffers in an arena, and its size, in bytes."""
    offsets: dict[Buffer, int] = {}
    placed: list[tuple[int, int, int]] = []  # offset, end, last call
    size_bytes = 0
    for buffer in sorted(buffers, key=lambda one: one.first):
        placed = sorted(one for one in placed if one[2] >= buffer.first)
        offset = 0
        for start, end, _ in placed:
            if offset + buffer.num_bytes <= start:
                break
            offset = max(offset, -(-end // _ALIGNMENT) * _ALIGNMENT)
        last = num_calls if buffer.last is None else buffer.last
        placed.append((offset, offset + buffer.num_bytes, last))
        offsets[buffer] = offset
        size_bytes = max(size_bytes, offset + buffer.num_bytes)
    return offsets, size_bytes
