"""Tools: `tool`."""

from functools import partial

from llmos.syscalls.errors import E_IN_DOUBT, SyscallError
from llmos.syscalls.tool import Tool, ToolResult

from ..protocol import ToolRan
from ..tools.registry import cut
from ..tools.tool import Happened, ToolContext, Unknown, Write
from .trap import Effect, Trap


async def sys_tool(trap: Trap, call: Tool) -> ToolResult | Effect:
    """Run a tool and tell the terminal that it ran; what it writes to the store is an Effect."""
    tools, clock = trap.machine.tools, trap.machine.clock
    tell = partial(_tell, trap, call, clock.monotonic())
    trap.machine.models.hint(trap.process.pid, "tool", tools.expect_seconds(call.name))
    problem: str | None = ""
    try:
        outcome = await _run(trap, call)
        problem = None
    except SyscallError as error:
        problem = error.message
        raise
    finally:
        if problem is not None:
            tell(problem, failed=True)
    if isinstance(outcome, ToolResult):
        tell(outcome.text, failed=False)
        return outcome
    write = outcome
    return Effect(lambda c: cut(write(c)), lambda result: tell(result.text, failed=False))


async def _run(trap: Trap, call: Tool) -> ToolResult | Write:
    """The tool's answer; of an interrupted `once` call what it became, or E_IN_DOUBT."""
    machine, process = trap.machine, trap.process
    context = ToolContext(
        process.workspace,
        machine.clock,
        process.capabilities,
        machine.memory,
        process.tenant,
        process.pid,
        process.call_key(trap.strand, trap.seq),
    )
    made = call.name, trap.arguments, context, machine.config.tool_timeout_seconds
    if trap.entry.is_interrupted and trap.entry.effect == "once":
        match await machine.tools.reconcile(*made):
            case Happened(text):
                return cut(text)
            case Unknown(reason):
                raise E_IN_DOUBT(
                    f"{call.name} of step {trap.strand}:{trap.seq} was interrupted; whether it had "
                    f"its effect is not known: {reason}; fix: look whether it had before you call "
                    "it again"
                )
    return await machine.tools.call(*made)


def _tell(trap: Trap, call: Tool, began: float, text: str, *, failed: bool) -> None:
    seconds = trap.machine.clock.monotonic() - began
    trap.machine.tools.note_seconds(call.name, seconds)
    trap.process.terminal.emit(
        ToolRan(trap.process.pid, call.name, call.arguments, text, failed, seconds)
    )
