"""Processes: `spawn`, `wait`, `signal`, `ps`, `checkpoint`."""

import anyio

from llmos.memory.db import Connection
from llmos.syscalls.errors import E_ARG, E_BUSY, E_KERNEL, E_PERM, raise_reply
from llmos.syscalls.process import (
    Checkpoint,
    PidReply,
    ProcessExit,
    ProcessList,
    Ps,
    Signal,
    Signalled,
    Spawn,
    Wait,
)
from llmos.syscalls.wire import Deliver

from ..listing import list_processes, read_exit
from ..machine import Machine
from ..process import Process
from ..terminal import Terminal
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

    return Effect(apply, start)


async def sys_wait(trap: Trap, call: Wait) -> ProcessExit:
    """Wait for a child's end. A child that a dead kernel left behind is brought back first."""
    machine, parent = trap.machine, trap.process
    child = machine.table.get(call.pid)
    if child is None:
        ended = await read_exit(machine, call.pid, parent.pid)
        if ended is not None:
            return ended
        child = await _bring_back(machine, call.pid, parent.terminal)
    if child.parent != parent.pid:
        raise E_PERM(f"process {call.pid} is not a child of this one", field="pid")
    if call.foreground:
        child.terminal.bring_to_front(child.pid)
    await child.ended.wait()
    if child.exit is None:
        raise_reply(child.error or E_KERNEL(f"process {call.pid} went away").reply())
    return child.exit


async def _bring_back(machine: Machine, pid: int, terminal: Terminal) -> Process:
    """A process that is left behind lives again: by this wait, or by another one just now."""
    try:
        return await machine.launcher.resume(pid, terminal)
    except E_ARG:
        child = machine.table.get(pid)
        if child is None:
            raise
        return child


async def sys_signal(trap: Trap, call: Signal) -> Signalled:
    """Signal a process of the same tenant; one that a dead kernel left behind can be ended."""
    machine, tenant = trap.machine, trap.process.tenant
    target = machine.table.get(call.pid)
    if target is None:
        return Signalled(await machine.launcher.end_evicted(call.pid, call.name, tenant))
    if target.tenant != tenant:
        return Signalled(delivered=False)
    machine.launcher.signal(target, call.name)
    return Signalled(delivered=True)


async def sys_ps(trap: Trap, call: Ps) -> ProcessList:
    """The newest processes."""
    return await list_processes(trap.machine, call.limit)


async def sys_checkpoint(trap: Trap, call: Checkpoint) -> None:
    """Let the app end, for its process to begin anew: see checkpoint.py. There is no reply.

    E_BUSY while other calls are under way, whose endings belong to the old journal.
    """
    machine, process = trap.machine, trap.process
    num_others = sum(not other.scope.cancel_called for other in process.in_flight.values()) - 1
    if num_others:
        raise E_BUSY(
            f"{num_others} other calls are under way; fix: await or cancel them before",
            field="calls",
        )
    process.next_argv = call.argv
    await trap.send(Deliver("CHECKPOINT"))
    await machine.clock.sleep(machine.config.kill_grace_seconds)
    machine.launcher.cut_off(process)
    await anyio.sleep_forever()
