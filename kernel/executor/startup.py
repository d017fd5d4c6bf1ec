"""Importing and building a model without torch's compiler, symbolic shapes and distributed tensors.

Nothing here compiles or distributes, yet importing a model's code imports torch._dynamo, sympy and
DTensor for a few decorators, and building it draws random numbers for tensors that have no memory:
over half of the time to the first token. Inside `without_compiler()` those decorators do nothing,
torch says that it has no distributed support, and tensors without memory are not filled.
Afterwards everything is as it was: who wants the compiler later imports the real one.
"""

import functools
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

_DYNAMO = "torch._dynamo"
_FILLS = ("normal_", "uniform_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_")


@contextmanager
def without_compiler() -> Iterator[None]:
    """Imports and models inside skip the compiler, unless it has been imported before."""
    if _DYNAMO in sys.modules:
        yield
        return
    with ExitStack() as stack:
        stack.callback(_forget_stub)
        sys.modules[_DYNAMO] = _make_stub()
        _replace(stack, torch.compiler, "disable", _mark)
        _replace(stack, torch.distributed, "is_available", lambda: False)
        _replace(stack, torch, "_check_with", _check_plainly)
        for name in _FILLS:
            fill = getattr(torch.nn.init, name)
            _replace(stack, torch.nn.init, name, _skip_without_memory(fill))
        yield


def _replace(stack: ExitStack, owner: Any, name: str, value: object) -> None:
    stack.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)


def _make_stub() -> types.ModuleType:
    """A package that finds its real submodules, and has the decorators that marked code wants."""
    stub = types.ModuleType(_DYNAMO)
    stub.__path__ = [str(Path(torch.__file__).parent / "_dynamo")]
    for name in ("allow_in_graph", "assume_constant_result", "disable"):
        setattr(stub, name, _mark)
    return stub


def _forget_stub() -> None:
    for name in [name for name in sys.modules if name.startswith(_DYNAMO)]:
        del sys.modules[name]
    vars(torch).pop("_dynamo", None)


def _mark(function: Any = None, *args: Any, **kwargs: Any) -> Callable[..., Any]:
    """A decorator, bare or with arguments, that returns its function."""
    return function if callable(function) else lambda inner: inner


def _check_plainly(kind: type[Exception], holds: bool, message: Callable[[], str]) -> None:
    """torch's own checks of arguments, without the symbolic ones."""
    if not holds:
        raise kind(message())


def _skip_without_memory(fill: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(fill)
    def fill_real(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return tensor if tensor.is_meta else fill(tensor, *args, **kwargs)

    return fill_real
