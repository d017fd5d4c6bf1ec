"""The tools that every kernel has: calculator, clock, the files of the workspace, and notes."""

import datetime

from llmos.memory.db import Connection
from llmos.syscalls.errors import E_TOOL

from ..capability import require_readable, require_space, require_writable
from ..workspace import show_path
from .calculator import evaluate
from .registry import MAX_RESULT_CHARS
from .tool import ToolContext, Write, tool


@tool("read")
def calculator(context: ToolContext, expression: str) -> str:
    """Evaluate an arithmetic expression."""
    return evaluate(expression)


@tool("read")
def clock(context: ToolContext, timezone: str = "UTC") -> str:
    """Tell the current date and time."""
    moment = datetime.datetime.fromtimestamp(context.clock.now(), _find_zone(timezone))
    return moment.strftime("%Y-%m-%d %H:%M:%S %Z, %A")


@tool("read")
def list_files(context: ToolContext, path: str = ".") -> str:
    """List the files of the workspace."""
    require_readable(context.capabilities, context.workspace, path)
    names = context.workspace.list_names(path)
    # One name per line, whatever is in a name.
    return "\n".join(name if name.isprintable() else repr(name) for name in names) or "(empty)"


@tool("read")
def read_file(context: ToolContext, path: str) -> str:
    """Read a text file of the workspace."""
    require_readable(context.capabilities, context.workspace, path)
    text, _ = context.workspace.read_text(path, 0, MAX_RESULT_CHARS + 1)
    return text


@tool("idempotent")
def write_file(context: ToolContext, path: str, content: str) -> str:
    """Write a text file in the workspace."""
    require_writable(context.capabilities, context.workspace, path)
    return f"wrote {context.workspace.write_text(path, content)} bytes to {path}"


@tool("transactional")
def remember(context: ToolContext, text: str) -> Write:
    """Keep a note that later conversations can recall."""
    rule = context.capabilities.memory
    require_space("write", rule.write, None)
    space, at = rule.default_name(), context.clock.now()
    if not text:
        raise E_TOOL("there is nothing to remember", field="text")

    def write(connection: Connection) -> str:
        uid = context.memory.remember(
            connection,
            context.tenant,
            space,
            text,
            kind="note",
            role="",
            session=str(context.pid),
            at=at,
        )
        return f"remembered as {uid}"

    return write


BUILTIN_TOOLS = (calculator, clock, list_files, read_file, write_file, remember)


def _find_zone(name: str) -> datetime.tzinfo:
    if name.upper() == "UTC":
        return datetime.UTC
    import zoneinfo  # 6 ms that a boot need not pay

    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        problem = f"unknown time zone {show_path(name)}; say it as in Europe/Berlin"
        raise E_TOOL(problem, field="timezone") from None
