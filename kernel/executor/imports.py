"""Importing transformers without torch's compiler and its distributed tensors.

Nothing here compiles or distributes, yet importing a model's code imports torch._dynamo, sympy and
DTensor for a few decorators: over half of the time to the first token. Inside
`without_compiler()` those decorators do nothing and torch says that it has no distributed support.
Afterwards everything is as it was: who wants the compiler later imports the real one.
"""

import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

_DYNAMO = "torch._dynamo"


@contextmanager
def without_compiler() -> Iterator[None]:
    """Imports inside skip the compiler, unless it has been imported before."""
    if _DYNAMO in sys.modules:
        yield
        return
    disable, is_available = torch.compiler.disable, torch.distributed.is_available
    sys.modules[_DYNAMO] = _make_stub()
    torch.compiler.disable = _mark  # type: ignore[assignment]
    torch.distributed.is_available = _is_not_available
    try:
        yield
    finally:
        torch.compiler.disable, torch.distributed.is_available = disable, is_available
        for name in [name for name in sys.modules if name.startswith(_DYNAMO)]:
            del sys.modules[name]
        vars(torch).pop("_dynamo", None)


def _make_stub() -> types.ModuleType:
    """A package that finds its real submodules, and has the decorators that marked code wants."""
    stub = types.ModuleType(_DYNAMO)
    stub.__path__ = [str(Path(torch.__file__).parent / "_dynamo")]
    for name in ("allow_in_graph", "assume_constant_result", "disable"):
        setattr(stub, name, _mark)
    return stub


def _mark(function: Any = None, *args: Any, **kwargs: Any) -> Callable[..., Any]:
    """A decorator, bare or with arguments, that returns its function."""
    return function if callable(function) else lambda inner: inner


def _is_not_available() -> bool:
    return False
