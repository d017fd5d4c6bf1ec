"""Tools: `tool`."""

from llmos.syscalls.errors import SyscallError
from llmos.syscalls.tool import Tool, ToolResult

from ..protocol import ToolRan
from ..tools.registry import ToolContext
from .trap import Trap


async def sys_tool(trap: Trap, call: Tool) -> ToolResult:
    """Run a tool and tell the terminal that it ran."""
    machine, process = trap.machine, trap.process
    context = ToolContext(process.workspace, machine.clock, process.capabilities)
    begun = machine.clock.monotonic()
    machine.models.hint(process.pid, "tool", machine.tools.expect_seconds(call.name))
    text, failed = "", True
    try:
        result = await machine.tools.call(
            call.name, trap.arguments, context, machine.config.tool_timeout_seconds
        )
        text, failed = result.text, False
    except SyscallError as error:
        text = error.message
        raise
    finally:
        seconds = machine.clock.monotonic() - begun
        machine.tools.note_seconds(call.name, seconds)
        process.terminal.emit(
            ToolRan(process.pid, call.name, call.arguments, text, failed, seconds)
        )
    return result
