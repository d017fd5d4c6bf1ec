"""Restart: whether a process whose main is over goes on, from where, and after how long.

An OS process that died under its main goes on from its journal: nothing is done twice. A main that
raised or returned begins anew with an empty journal; its contexts and its output stay. The wait in
between is one of a sleeping process, and longer each time until a run was long enough.
"""

from typing import NamedTuple

from llmos.memory import processes, waits
from llmos.memory.db import Connection
from llmos.memory.processes import ProcessRecord
from llmos.memory.waits import Wait
from llmos.syscalls.runtime import EXIT_OK, EXIT_USAGE
from llmos.syscalls.wire import Exit

from .checkpoint import NewLife, plan_new_life
from .ending import was_cut_off
from .machine import Machine
from .manifest import RestartPolicy
from .process import Process
from .protocol import Notice

FIRST_WAIT_SECONDS = 1.0
MAX_WAIT_SECONDS = 300.0
GOOD_RUN_SECONDS = 600.0


class Restart(NamedTuple):
    """How a process goes on: anew, or from its journal."""

    is_anew: bool
    wait_seconds: float
    num_restarts: int


def plan_restart(
    policy: RestartPolicy, ending: Exit | None, record: ProcessRecord, now: float
) -> Restart | None:
    """What becomes of a process that was not killed; None if this is its end.

    A command line that does not fit, it never will.
    """
    is_crash = was_cut_off(ending)
    code = EXIT_USAGE if ending is None else ending.code
    is_over = not is_crash and (code == EXIT_USAGE or (code == EXIT_OK and policy != "always"))
    if policy == "never" or is_over:
        return None
    began_at = record.created_at if record.restarted_at is None else record.restarted_at
    num_before = record.num_restarts if now - began_at < GOOD_RUN_SECONDS else 0
    wait_seconds = min(MAX_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(num_before, 30))
    return Restart(not is_crash, wait_seconds, num_before + 1)


async def restart(machine: Machine, process: Process, ending: Exit | None) -> bool:
    """Let a process sleep until it goes on, if its app says so; False if this is its end."""
    policy, pid = process.manifest.restart, process.pid
    if policy == "never" or process.killed_by is not None:
        return False
    record, now = await processes.get(machine.db, pid), machine.clock.now()
    plan = plan_restart(policy, ending, record, now) if record is not None else None
    if plan is None:
        return False
    tokens = (process.prompt_tokens, process.completion_tokens)
    life = plan_new_life(machine, process, process.spec.argv) if plan.is_anew else None
    children = await machine.db.write(
        lambda connection: _write(connection, pid, plan, life, tokens, now), owner=pid, keep=True
    )
    if process.killed_by is not None:
        return False
    if process.state == "STOPPED":
        machine.db.write_nowait(
            lambda connection: processes.change_unfinished(connection, pid, state="STOPPED"),
            owner=pid,
        )
    how = "begins anew" if plan.is_anew else "goes on from its journal"
    what = "crashed" if not plan.is_anew else "ended" if ending and not ending.code else "failed"
    process.terminal.emit(Notice(f"process {pid} {what}; it {how} in {plan.wait_seconds:g} s"))
    machine.models.resume(pid)  # should the disk have paused it: nobody else will
    machine.table.remove(process)
    for child in children:
        await machine.launcher.deliver(child, "TERM")
    return True


def _write(
    connection: Connection,
    pid: int,
    plan: Restart,
    life: NewLife | None,
    tokens: tuple[int, int],
    now: float,
) -> tuple[int, ...]:
    """Write the wait; the children of a main that is over."""
    processes.change(
        connection,
        pid,
        num_restarts=plan.num_restarts,
        restarted_at=now,
        prompt_tokens=tokens[0],
        completion_tokens=tokens[1],
    )
    waits.write_waits(connection, [Wait(pid, "", 0, "restart", now + plan.wait_seconds)], now)
    if life is None:
        return ()
    life.write(connection)
    return processes.find_children(connection, pid)
