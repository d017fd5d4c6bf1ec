"""People: `print` and `ask`."""

from llmos.memory.db import Connection
from llmos.memory.journal import append_output
from llmos.syscalls.ipc import Answer, Ask, Print, Printed

from ..protocol import Output
from .trap import Effect, Trap


async def sys_print(trap: Trap, call: Print) -> Effect:
    """Write to the process's output: shown once it is durable, so that a crash cannot unsay it."""
    process, where = trap.process, (trap.strand, trap.seq)
    await process.terminal.wait_for_room()

    def apply(connection: Connection) -> Printed:
        return Printed(append_output(connection, process.pid, call.text, where))

    def show(_: Printed) -> None:
        process.num_printed_chars += len(call.text)
        process.terminal.emit(Output(process.pid, call.text))

    return Effect(apply, show)


async def sys_ask(trap: Trap, call: Ask) -> Answer:
    """Ask the person at the process's terminal."""
    process = trap.process
    trap.machine.models.hint(process.pid, "person")
    return Answer(await process.terminal.ask(process.pid, call.prompt, call.choices))
