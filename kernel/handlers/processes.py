"""Processes: `spawn`, `wait`, `signal`, `ps`."""

from llmos.memory.db import Connection
from llmos.syscalls.errors import E_ARG, E_PERM
from llmos.syscalls.process import (
    PidReply,
    ProcessExit,
    ProcessList,
    Ps,
    Signal,
    Signalled,
    Spawn,
    Wait,
)

from ..listing import list_processes, read_exit
from .trap import Effect, Trap


async def sys_spawn(trap: Trap, call: Spawn) -> Effect:
    """Start a child: its record and this call's row are one transaction."""
    machine, parent = trap.machine, trap.process
    birth = machine.launcher.prepare(
        call.app,
        call.argv,
        workspace=parent.spec.workspace,
        readable=parent.spec.readable,
        model=call.model or parent.model,
        parent=parent,
    )

    def apply(connection: Connection) -> PidReply:
        return PidReply(machine.launcher.record(connection, birth))

    def start(reply: PidReply) -> None:
        machine.launcher.start(reply.pid, birth, parent.terminal)
        if call.foreground:
            parent.terminal.foreground.append(reply.pid)

    return Effect(apply, start)


async def sys_wait(trap: Trap, call: Wait) -> ProcessExit:
    """Wait for a child's end. A child that a dead kernel left behind is brought back first."""
    machine, parent = trap.machine, trap.process
    child = machine.table.get(call.pid)
    if child is None:
        ended = await read_exit(machine, call.pid, parent.pid)
        if ended is not None:
            return ended
        child = await machine.launcher.resume(call.pid, parent.terminal)
    if child.parent != parent.pid:
        raise E_PERM(f"process {call.pid} is not a child of this one", field="pid")
    await child.ended.wait()
    if child.exit is None:
        raise E_ARG(f"process {call.pid} has no exit", field="pid")
    return child.exit


async def sys_signal(trap: Trap, call: Signal) -> Signalled:
    """Signal a process of the same tenant."""
    machine = trap.machine
    target = machine.table.get(call.pid)
    if target is None or target.tenant != trap.process.tenant:
        return Signalled(delivered=False)
    machine.launcher.signal(target, call.name)
    return Signalled(delivered=True)


async def sys_ps(trap: Trap, call: Ps) -> ProcessList:
    """The newest processes."""
    return await list_processes(trap.machine, call.limit)
