"""Processes that sleep or were left behind: they are brought back, attended, signalled, ended.

Such a process has no control block and no task: it is its record, its journal and its waits. One
lock is held by whoever changes one, so that nobody brings back what somebody ends.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import anyio

from llmos.memory import processes, waits
from llmos.memory.db import Connection
from llmos.memory.journal import JournalRow, load, read_output
from llmos.memory.processes import ProcessRecord
from llmos.syscalls.errors import E_ARG, E_STORAGE, SyscallError
from llmos.syscalls.process import ProcessExit, SignalName
from llmos.syscalls.runtime import EXIT_KILLED

from .ending import Bereaved, describe_end, killed, name_command, write_end
from .listing import decode_spec
from .machine import Machine
from .manifest import find_app
from .process import Process
from .protocol import Notice
from .replay import count_tokens
from .terminal import Terminal

DEADLY = ("TERM", "KILL")
Begin = Callable[[Process, Terminal], None]
logger = logging.getLogger(__name__)


class Past(NamedTuple):
    """What a process that is to go on has done: its calls and its output."""

    rows: list[JournalRow]
    output: str


class Sleepers:
    """The processes that do not live. `begin` brings one to life at a terminal."""

    def __init__(self, machine: Machine, begin: Begin) -> None:
        self._machine = machine
        self._begin = begin
        self._changing = anyio.Lock()

    async def resume(self, pid: int, terminal: Terminal) -> Process:
        """See machine.Launcher."""
        async with self._changing:
            record = await self._find_left(pid)
            process = await self._revive(record, terminal)
        say_that_it_goes_on(process)
        return process

    async def bring_back(self, pid: int) -> None:
        """See machine.Launcher."""
        async with self._changing:
            record = await processes.get(self._machine.db, pid)
            if record is None or not self._is_to_go_on(record):
                return
            try:
                process = await self._revive(record, await self._find_terminal(pid))
            except SyscallError as error:
                if isinstance(error, E_STORAGE) and error.retry_after_seconds is not None:
                    raise
                note_why_left(self._machine, pid, error)
            else:
                process.is_brought_back = not process.terminal.is_attended

    async def attach(self, pid: int) -> Terminal:
        """See machine.Launcher."""
        async with self._changing:
            process = self._machine.table.get(pid)
            record = await self._find_left(pid) if process is None else None
            terminal = await self._find_terminal(pid) if process is None else process.terminal
            if terminal.is_attended:
                raise E_ARG(f"process {pid} has a person already", field="pid")
            revived = await self._revive(record, terminal) if record is not None else None
            terminal.attend(pid)
        if revived is not None:
            say_that_it_goes_on(revived)
        return terminal

    async def _find_left(self, pid: int) -> ProcessRecord:
        """The record of a process that neither lives nor has ended. E_ARG."""
        self._require_gone(pid)
        record = await processes.get(self._machine.db, pid)
        if record is None:
            raise E_ARG(f"there is no process {pid}", field="pid")
        if record.ended_at is not None:
            how, again = describe_end(record), name_command(record)
            raise E_ARG(f"process {pid} has ended{how}; fix: {again}", field="pid")
        return record

    def _require_gone(self, pid: int) -> None:
        if self._machine.table.get(pid) is not None:
            raise E_ARG(f"process {pid} is running", field="pid")

    def _is_to_go_on(self, record: ProcessRecord) -> bool:
        has_to_wait = record.ended_at is not None or record.state in ("EVICTED", "STOPPED")
        return not has_to_wait and self._machine.table.get(record.pid) is None

    async def _find_terminal(self, pid: int) -> Terminal:
        """The terminal of a process's family, or a place for one."""
        root = await processes.find_root(self._machine.db, pid)
        return self._machine.table.terminals.get(root) or Terminal(is_attended=False)

    async def _revive(self, record: ProcessRecord, terminal: Terminal) -> Process:
        """Bring a process to life, which replays its journal first."""
        machine, pid = self._machine, record.pid
        machine.degraded.require_store()
        spec = decode_spec(record)
        require_folder(spec.workspace)
        manifest = find_app(spec.app, Path(spec.workspace))
        past = await read_past(machine, pid)
        root = await processes.find_root(machine.db, pid)
        await machine.db.write(lambda connection: _awaken(connection, record), owner=pid)
        self._require_gone(pid)  # somebody else may have been faster
        process = Process(pid, record.parent, manifest, spec, machine.clock.now())
        process.root = root
        process.state = "STOPPED" if record.state == "STOPPED" else "NEW"
        begin_again(process, past)
        process.prompt_tokens = max(process.prompt_tokens, record.prompt_tokens)
        process.completion_tokens = max(process.completion_tokens, record.completion_tokens)
        self._begin(process, terminal)
        return process

    # -- signals

    async def signal(
        self, pid: int, name: SignalName, tenant: str | None, sender: str
    ) -> Bereaved | Process | None:
        """Signal a process in the store; who is left by it, or the process if it lives by now.

        None if the tenant (None: any) has none of this number, or it has ended. One that is stopped
        waits for nothing but CONT, with which it goes on and waits anew.
        """
        async with self._changing:
            process = self._machine.table.get(pid)
            if process is not None:
                return process
            record = await processes.get(self._machine.db, pid)
            if record is None or record.ended_at is not None or tenant not in (None, record.tenant):
                return None
            if name in DEADLY:
                return await self._end(record, sender)
            if name == "STOP" or record.state == "STOPPED":
                await self._stop_or_continue(pid, name)
            return Bereaved(woken=(pid,) if name == "CONT" else ())

    async def _stop_or_continue(self, pid: int, name: SignalName) -> None:
        def mark(connection: Connection) -> None:
            waits.forget_waits(connection, pid)
            state = "STOPPED" if name == "STOP" else waits.AWAKE
            processes.change_unfinished(connection, pid, state=state)

        await self._machine.db.write(mark, owner=pid, keep=True)

    async def _end(self, record: ProcessRecord, sender: str) -> Bereaved:
        """End a process that does not live."""
        machine, pid, error = self._machine, record.pid, killed(record.pid, sender)
        ended = ProcessExit(pid, "killed", EXIT_KILLED, "", f"{error.code}: {error.message}")
        try:
            num_tokens = count_tokens(await load(machine.db, pid))
        except E_STORAGE:  # damaged, which is no reason to live
            num_tokens = (0, 0)
        known = (record.prompt_tokens, record.completion_tokens)
        terminal = await self._find_terminal(pid)
        left = await write_end(machine, ended, max(num_tokens, known))
        terminal.forget(pid)
        machine.models.hint(pid, "gone")
        machine.table.tell_end(pid, ended, error)
        return left


def _awaken(connection: Connection, record: ProcessRecord) -> None:
    """A process that slept, or could not go on, does."""
    waits.wake(connection, [record.pid])
    if record.result is not None:
        processes.change_unfinished(connection, record.pid, result=None)


async def read_past(machine: Machine, pid: int) -> Past:
    """What a process has done. E_STORAGE if its journal is damaged."""
    return Past(await load(machine.db, pid), await read_output(machine.db, pid))


def begin_again(process: Process, past: Past) -> None:
    """Let a process go on from its journal, which holds all that it has done."""
    process.begin_again(past.rows, count_tokens(past.rows), len(past.output))


def say_that_it_goes_on(process: Process) -> None:
    """Tell the person, before the first call is answered."""
    finished = sum(row.state == "DONE" for row in process.journaled.values())
    process.terminal.emit(Notice(f"process {process.pid} goes on after {finished} finished calls"))


def note_why_left(machine: Machine, pid: int, error: SyscallError) -> str:
    """Say in the log and in the record why a process does not go on; the reason."""
    what = error.message.partition("; fix: ")[0]
    logger.error("process %d is left: %s", pid, what)
    machine.db.write_nowait(
        lambda connection: processes.change_unfinished(connection, pid, result=what)
    )
    return what


def require_folder(workspace: str) -> None:
    """E_ARG if there is no such folder."""
    if not os.path.isdir(workspace):
        raise E_ARG(f"there is no folder {workspace}", field="workspace")
