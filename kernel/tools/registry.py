"""The registry: the tools by name; their calls are decoded, bounded in time and size, and made."""

import difflib
from collections.abc import Callable, Iterable
from typing import TypeVar

import anyio
import anyio.to_thread
import msgspec

from llmos.syscalls.errors import E_ARG, E_IN_DOUBT, E_TOOL, SyscallError
from llmos.syscalls.tool import ToolResult
from llmos.syscalls.types import ToolSpec

from ..toml import describe
from ..workspace import show_path
from .tool import Effect, Reconciled, Tool, ToolContext, Unknown, Write

MAX_RESULT_CHARS = 65_536
MAX_RUNNING_TOOLS = 16
_WEIGHT_OF_LAST = 0.3
T = TypeVar("T")


def cut(text: str) -> ToolResult:
    """A tool's text as its result: at most MAX_RESULT_CHARS of it, which says so if it was more."""
    return ToolResult(text[:MAX_RESULT_CHARS], len(text) > MAX_RESULT_CHARS)


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
    ) -> ToolResult | Write:
        """Run a tool in a thread; a transactional one only gets ready, and returns its Write.

        E_TOOL if it fails or takes too long, E_IN_DOUBT if it is a `once` tool that takes too long,
        E_PERM if it may not. A tool that takes too long is left behind: its thread ends when it
        does.
        """
        tool = self._find(name)
        with anyio.move_on_after(timeout_seconds):
            outcome = await self._run(tool.run, decoded, context)
            return cut(outcome) if isinstance(outcome, str) else outcome
        slow = f"{name} took longer than {timeout_seconds:g} s"
        if tool.effect == "once":
            raise E_IN_DOUBT(f"{slow}, and may still have its effect")
        raise E_TOOL(slow)

    async def reconcile(
        self, name: str, decoded: msgspec.Struct, context: ToolContext, timeout_seconds: float
    ) -> Reconciled:
        """What became of an interrupted call, as far as the tool can tell."""
        look_up = self._find(name).reconcile
        if look_up is None:
            return Unknown(f"{name} cannot tell")
        try:
            with anyio.move_on_after(timeout_seconds):
                return await self._run(look_up, decoded, context)
        except SyscallError as error:
            return Unknown(error.message)
        return Unknown(f"{name} took longer than {timeout_seconds:g} s to tell")

    async def _run(
        self,
        function: Callable[[msgspec.Struct, ToolContext], T],
        decoded: msgspec.Struct,
        context: ToolContext,
    ) -> T:
        try:
            return await anyio.to_thread.run_sync(
                function, decoded, context, abandon_on_cancel=True, limiter=self._limiter
            )
        except E_ARG as error:  # of the tool's own arguments, not of the call
            raise E_TOOL(error.message, field=error.field) from None
