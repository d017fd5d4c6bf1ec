"""A forward pass is written down while it is made: what it calls, and the memory that it takes.

Compiled kernels are called with addresses; torch's own operations pass through a dispatch mode,
which also tells what memory each result takes. Torch gives that memory back as soon as the network
has let go of it, so a recording notes from which call to which a result is needed: `program.py`
places it anew. What torch computes itself stays where it is, and is kept.
"""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .library import LANES, POINTER, PROTOTYPES

_aten = torch.ops.aten
_ALLOCATIONS = {
    _aten.empty.memory_format,
    _aten.empty_like.default,
    _aten.empty_strided.default,
    _aten.new_empty.default,
    _aten.new_empty_strided.default,
}
_UNKNOWN_TAGS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class CannotRecord(Exception):
    """Why a pass would not be the same with other numbers."""


@dataclass(eq=False)
class Buffer:
    """Memory of one result: needed from call `first` to call `last`, both included."""

    address: int
    num_bytes: int
    first: int
    last: int | None
    storage: StorageWeakRef
    is_kept: bool = False  # a torch operation reads or writes it


@dataclass(frozen=True)
class Place:
    """An address in a buffer."""

    buffer: Buffer
    offset_bytes: int


@dataclass(frozen=True)
class KernelCall:
    """A call of a compiled kernel; addresses of the pass's own memory are places."""

    name: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class TorchCall:
    """A call of a torch operation; what it makes is copied to `result`, if it makes anything."""

    operation: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    result: torch.Tensor | None

    def __call__(self) -> None:
        """Do the same again."""
        made = self.operation(*self.arguments, **self.options)
        if self.result is not None:
            self.result.copy_(made)


class Recorder(TorchDispatchMode):
    """Use it as a context around a pass, and let the kernels' library be heard by `hear`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[KernelCall | TorchCall] = []
        self.buffers: list[Buffer] = []
        self._live: list[Buffer] = []  # by address

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No, for that would import torch's compiler, which takes over a second."""
        return False

    def hear(self, name: str, arguments: tuple[Any, ...]) -> None:
        """A kernel was called."""
        self._bury()
        kinds = PROTOTYPES[name]
        known = [
            self._find(argument) if kind is POINTER else argument
            for kind, argument in zip(kinds, arguments, strict=True)
        ]
        self.calls.append(KernelCall(name, tuple(known)))

    def find(self, tensor: torch.Tensor) -> Place | None:
        """Where a tensor lies in the pass's own memory, if it does."""
        place = self._find(tensor.data_ptr())
        return place if isinstance(place, Place) else None

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call the operation, and write down what has to be done again."""
        kwargs = kwargs or {}
        made = operation(*args, **kwargs)
        results = [one for one in tree_leaves(made) if one is not None]
        given = [one for one in tree_leaves((args, kwargs)) if _is_tensor(one)]
        if _depends_on_numbers(operation, given) or not all(map(_is_tensor, results)):
            raise CannotRecord(f"{operation} depends on the numbers in a tensor")
        self._bury()
        known = {_find_storage(one) for one in given}
        fresh = [one for one in results if one.numel() and _find_storage(one) not in known]
        for one in fresh:
            self._add_buffer(one)
        if operation._schema.is_mutable:
            self._keep([*given, *results], TorchCall(operation, args, kwargs, None))
        elif len(fresh) > 1:
            raise CannotRecord(f"{operation} makes several tensors")
        elif fresh and operation not in _ALLOCATIONS:
            self._compute(operation, args, kwargs, fresh[0])
        return made

    def _compute(self, operation: Any, args: Any, kwargs: Any, result: torch.Tensor) -> None:
        if operation is _aten.add.Tensor and not kwargs and _adds_alike(args, result):
            addresses = [one.data_ptr() for one in (*args, result)]
            self.hear("llmos_add", (*addresses, result.numel()))
        else:
            call = TorchCall(operation, args, kwargs, result)
            self._keep([*filter(_is_tensor, tree_leaves((args, kwargs))), result], call)

    def _keep(self, tensors: list[torch.Tensor], call: TorchCall) -> None:
        for one in tensors:
            place = self._find(_find_storage(one))
            if isinstance(place, Place):
                place.buffer.is_kept = True
        self.calls.append(call)

    def _add_buffer(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        alive = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
        buffer = Buffer(storage.data_ptr(), storage.nbytes(), len(self.calls), None, alive)
        self.buffers.append(buffer)
        self._live.append(buffer)
        self._live.sort(key=_find_address)

    def _bury(self) -> None:
        """Note whose memory was given back since the last call."""
        for buffer in self._live:
            if buffer.storage.expired():  # type: ignore[no-untyped-call]
                buffer.last = len(self.calls) - 1
        self._live = [buffer for buffer in self._live if buffer.last is None]

    def _find(self, address: int | None) -> "Place | int | None":
        """The place that an address is of; itself if it is not of the pass's own memory."""
        if address is None:
            return None
        index = bisect_right(self._live, address, key=_find_address) - 1
        if index < 0:
            return address
        buffer = self._live[index]
        offset_bytes = address - buffer.address
        return Place(buffer, offset_bytes) if offset_bytes < buffer.num_bytes else address


def _depends_on_numbers(operation: Any, given: list[torch.Tensor]) -> bool:
    """Whether the call's form follows from numbers: an index does so only if it is a mask."""
    if operation is _aten.index.Tensor:
        return any(one.dtype in (torch.bool, torch.uint8) for one in given[1:])
    return bool(_UNKNOWN_TAGS & set(operation.tags))


def _find_address(buffer: Buffer) -> int:
    return buffer.address


def _find_storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _is_tensor(one: Any) -> bool:
    return isinstance(one, torch.Tensor)


def _adds_alike(terms: tuple[Any, ...], result: torch.Tensor) -> bool:
    """Whether the kernel's sum of the terms is the same."""
    return result.numel() % LANES == 0 and all(
        _is_tensor(one)
        and one.shape == result.shape
        and one.dtype == torch.bfloat16
        and one.is_contiguous()
        for one in (*terms, result)
    )
