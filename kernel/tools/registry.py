"""The registry: a tool's schema, effect and code; calls are decoded, bounded in time and size."""

import difflib
import inspect
from collections.abc import Callable, Iterable
from typing import Any, Literal, get_type_hints

import anyio
import anyio.to_thread
import msgspec

from llmos.syscalls.errors import E_ARG, E_TOOL
from llmos.syscalls.tool import ToolResult
from llmos.syscalls.types import ToolSpec

from ..capability import Capabilities
from ..clock import Clock
from ..toml import describe
from ..workspace import Workspace, show_path

MAX_RESULT_CHARS = 65_536
MAX_RUNNING_TOOLS = 16
_WEIGHT_OF_LAST = 0.3

Effect = Literal["read", "idempotent", "once"]


class ToolContext(msgspec.Struct, frozen=True):
    """What a tool gets of the process that calls it."""

    workspace: Workspace
    clock: Clock
    capabilities: Capabilities


class Tool(msgspec.Struct, frozen=True):
    """A tool: what a model sees, what a restart may do with it, and its code.

    "read" may run again, "idempotent" may run again with the same arguments, "once" never.
    `run` blocks, and raises typed errors alone.
    """

    spec: ToolSpec
    effect: Effect
    arguments: type[msgspec.Struct]
    run: Callable[[Any, ToolContext], str]


def tool(effect: Effect) -> Callable[[Callable[..., str]], Tool]:
    """Make a Tool of a function of a ToolContext and typed parameters.

    The function's name and docstring are the tool's; the parameters after the first are its
    arguments.
    """

    def make(function: Callable[..., str]) -> Tool:
        arguments = _make_struct(function)
        description = inspect.cleandoc(function.__doc__ or "")
        spec = ToolSpec(function.__name__, description, _render_schema(arguments))

        def run(decoded: msgspec.Struct, context: ToolContext) -> str:
            return function(context, **msgspec.structs.asdict(decoded))

        return Tool(spec, effect, arguments, run)

    return make


def _make_struct(function: Callable[..., str]) -> type[msgspec.Struct]:
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


class Registry:
    """The tools there are, by name."""

    def __init__(self, tools: Iterable[Tool]) -> None:
        self._tools = {tool.spec.name: tool for tool in tools}
        self._limiter = anyio.CapacityLimiter(MAX_RUNNING_TOOLS)
        self._seconds: dict[str, float] = {}

    def expect_seconds(self, name: str) -> float | None:
        """How long a call of this tool is likely to take; None before the first."""
        return self._seconds.get(name)

    def note_seconds(self, name: str, seconds: float) -> None:
        """A call has taken so long; later ones count more than earlier ones."""
        before = self._seconds.get(name, seconds)
        self._seconds[name] = before + _WEIGHT_OF_LAST * (seconds - before)

    def _find(self, name: str) -> Tool:
        if found := self._tools.get(name):
            return found
        close = difflib.get_close_matches(name, self._tools, 1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(self._tools)}"
        raise E_TOOL(f"unknown tool {show_path(name)}; {hint}", field="name")

    def spec(self, name: str) -> ToolSpec:
        """What a model sees of a tool. E_TOOL if there is none of this name."""
        return self._find(name).spec

    def specs(self, names: Iterable[str]) -> tuple[ToolSpec, ...]:
        """The same for several, in this order."""
        return tuple(self.spec(name) for name in names)

    def effect(self, name: str) -> Effect:
        """What a restart may do with an interrupted call. E_TOOL if there is no such tool."""
        return self._find(name).effect

    def decode(self, name: str, arguments_json: str) -> msgspec.Struct:
        """The text of a JSON object as the tool's arguments; of a key that comes twice, the last.

        E_TOOL if the tool is unknown, or the text is not JSON or not what the schema says; `field`
        is then the argument's path.
        """
        tool = self._find(name)
        try:
            return msgspec.json.decode(arguments_json, type=tool.arguments)
        except msgspec.ValidationError as error:
            key, problem = describe(error)
            place = f"{key}: {problem}" if key else problem
            raise E_TOOL(f"{name} arguments: {place}", field=key or "arguments") from None
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise E_TOOL(f"{name} arguments: {error}", field="arguments") from None

    async def call(
        self, name: str, decoded: msgspec.Struct, context: ToolContext, timeout_seconds: float
    ) -> ToolResult:
        """Run a tool in a thread. E_TOOL if it fails or takes too long, E_PERM if it may not.

        A tool that takes too long is left behind: its thread ends when it does.
        """
        tool = self._find(name)
        with anyio.move_on_after(timeout_seconds):
            text = await self._run(tool, decoded, context)
            return ToolResult(text[:MAX_RESULT_CHARS], len(text) > MAX_RESULT_CHARS)
        raise E_TOOL(f"{name} took longer than {timeout_seconds:g} s")

    async def _run(self, tool: Tool, decoded: msgspec.Struct, context: ToolContext) -> str:
        try:
            return await anyio.to_thread.run_sync(
                tool.run, decoded, context, abandon_on_cancel=True, limiter=self._limiter
            )
        except E_ARG as error:  # of the tool's own arguments, not of the call
            raise E_TOOL(error.message, field=error.field) from None
