"""A tool: what a model sees of it, what it promises of an interrupted call, and its code.

| effect | it promises | an interrupted call |
|---|---|---|
| read | to change nothing | runs again |
| idempotent | that a second call with the same key changes nothing | runs again, same key |
| once | nothing | is looked up by `reconcile`; without one E_IN_DOUBT |
| transactional | to write to the store alone, with its row | has not happened: runs again |

Sources: Stripe's idempotency keys; the two generals' problem (Gray, 1978), for `once`.
"""

import inspect
from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_type_hints

import msgspec

from llmos.memory.db import Connection
from llmos.memory.manager import MemoryManager
from llmos.syscalls.types import ToolSpec

from ..capability import Capabilities
from ..clock import Clock
from ..workspace import Workspace

T = TypeVar("T")
Effect = Literal["read", "idempotent", "once", "transactional"]
Write = Callable[[Connection], str]
"""What a transactional tool hands back: its write, and what it says when that is done."""


class ToolContext(msgspec.Struct, frozen=True):
    """What a tool gets of the process that calls it.

    `key` names the call: the same after a restart, and no other call's. What `memory` writes is
    written by a transactional tool's Write.
    """

    workspace: Workspace
    clock: Clock
    capabilities: Capabilities
    memory: MemoryManager
    tenant: str
    pid: int
    key: str


class Happened(msgspec.Struct, frozen=True):
    """An interrupted call had its effect, and this was its result."""

    text: str


class NotHappened(msgspec.Struct, frozen=True):
    """An interrupted call had no effect, and never will: it may be made."""


class Unknown(msgspec.Struct, frozen=True):
    """Nobody can tell, and why."""

    reason: str


Reconciled = Happened | NotHappened | Unknown
Run = Callable[[Any, ToolContext], str | Write]
Reconcile = Callable[[Any, ToolContext], Reconciled]


class Tool(msgspec.Struct, frozen=True):
    """A tool. `run` and `reconcile` block, and raise typed errors alone.

    A transactional tool's `run` only prepares, and returns a Write; all others return their result.
    """

    spec: ToolSpec
    effect: Effect
    arguments: type[msgspec.Struct]
    run: Run
    reconcile: Reconcile | None = None


def tool(
    effect: Effect, *, reconcile: Callable[..., Reconciled] | None = None
) -> Callable[[Callable[..., str | Write]], Tool]:
    """Make a Tool of a function of a ToolContext and typed parameters.

    The function's name and docstring are the tool's; the parameters after the first are its
    arguments, and those of `reconcile` too, which is for a `once` tool: it finds out by the
    context's `key` what became of a call.
    """

    def make(function: Callable[..., str | Write]) -> Tool:
        arguments = _make_struct(function)
        description = inspect.cleandoc(function.__doc__ or "")
        spec = ToolSpec(function.__name__, description, _render_schema(arguments))
        look_up = None if reconcile is None else _with_fields(reconcile)
        return Tool(spec, effect, arguments, _with_fields(function), look_up)

    return make


def _with_fields(function: Callable[..., T]) -> Callable[[msgspec.Struct, ToolContext], T]:
    """The function, called with a struct's fields as keywords."""

    def call(decoded: msgspec.Struct, context: ToolContext) -> T:
        return function(context, **msgspec.structs.asdict(decoded))

    return call


def _make_struct(function: Callable[..., str | Write]) -> type[msgspec.Struct]:
    hints = get_type_hints(function)
    fields: list[tuple[str, type] | tuple[str, type, Any]] = []
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        default = () if parameter.default is parameter.empty else (parameter.default,)
        fields.append((parameter.name, hints[parameter.name], *default))
    return msgspec.defstruct(
        function.__name__, fields, frozen=True, forbid_unknown_fields=True, module=__name__
    )


def _render_schema(arguments: type[msgspec.Struct]) -> str:
    """The JSON schema as models are shown it: types and what is required, nothing else."""
    _, components = msgspec.json.schema_components((arguments,))
    schema = components[arguments.__name__]
    properties = {
        name: {key: value for key, value in detail.items() if key != "default"}
        for name, detail in schema["properties"].items()
    }
    shown = {"type": "object", "properties": properties, "required": schema["required"]}
    return msgspec.json.encode(shown).decode()
