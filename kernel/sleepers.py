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
from llmos.memory.journal import JournalRow, count_printed_chars, load_outline
from llmos.memory.processes import Left, ProcessRecord
from llmos.syscalls.errors import E_ARG, E_STORAGE, SyscallError
from llmos.syscalls.process import ProcessExit, SignalName
from llmos.syscalls.runtime import EXIT_KILLED

from .ending import Bereaved, describe_end, killed, name_command, write_end
from .listing import decode_spec
from .machine import Machine
from .manifest import find_app
from .process import Process
from .protocol import Notice
from .replay import count_outlined_tokens
from .terminal import Terminal

DEADLY = ("TERM", "KILL")
Begin = Callable[[Process, Terminal], None]
logger = logging.getLogger(__name__)


class Past(NamedTuple):
    """What a process that is to go on has done: its calls, and how much it has written."""

    rows: list[JournalRow]
    num_tokens: tuple[int, int]
    num_printed_chars: int


class Sleepers:
    """The processes that do not live. `begin` brings one to life at a terminal."""

    def __init__(self, machine: Machine, begin: Begin) -> None:
        self._machine = machine
        self._begin = begin
        self._changing = anyio.Lock()

    async def resume(self, pid: int, terminal: Terminal) -> Process:
        """See machine.Launcher."""
        async with self._changing:
            process = await self._revive(await self._find_left(pid), terminal)
        say_that_it_goes_on(process)
        return process

    async def bring_back(self, pid: int) -> None:
        """See machine.Launcher."""
        async with self._changing:
            try:
                left = await processes.find_left(self._machine.db, pid)
                if left is None or not self._is_to_go_on(left.record):
                    return
                process = await self._revive(left, self._find_terminal(left.root))
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
            left = None
            if process is not None:
                terminal = process.terminal
            else:
                left = await self._find_left(pid)
                terminal = self._find_terminal(left.root)
            if terminal.is_attended:
                raise E_ARG(f"process {pid} has a person already", field="pid")
            revived = await self._revive(left, terminal) if left is not None else None
            terminal.attend(pid)
        if revived is not None:
            say_that_it_goes_on(revived)
        return terminal

    async def _find_left(self, pid: int) -> Left:
        """A process that neither lives nor has ended. E_ARG."""
        self._require_gone(pid)
        left = await processes.find_left(self._machine.db, pid)
        if left is None:
            raise E_ARG(f"there is no process {pid}", field="pid")
        if left.record.ended_at is not None:
            how, again = describe_end(left.record), name_command(left.record)
            raise E_ARG(f"process {pid} has ended{how}; fix: {again}", field="pid")
        return left

    def _require_gone(self, pid: int) -> None:
        if self._machine.table.get(pid) is not None:
            raise E_ARG(f"process {pid} is running", field="pid")

    def _is_to_go_on(self, record: ProcessRecord) -> bool:
        has_to_wait = record.ended_at is not None or record.state in ("EVICTED", "STOPPED")
        return not has_to_wait and self._machine.table.get(record.pid) is None

    def _find_terminal(self, root: int) -> Terminal:
        """The terminal of a family, or a place for one."""
        return self._machine.table.terminals.get(root) or Terminal(is_attended=False)

    async def _revive(self, left: Left, terminal: Terminal) -> Process:
        """Bring a process to life, which replays its journal first."""
        machine, record, pid = self._machine, left.record, left.record.pid
        machine.degraded.require_store()
        spec = decode_spec(record)
        require_folder(spec.workspace)
        manifest = find_app(spec.app, Path(spec.workspace))
        rows = await load_outline(machine.db, pid)
        num_tokens = await count_outlined_tokens(machine.db, rows)
        if record.state == waits.ASLEEP or record.result is not None:
            await machine.db.write(lambda connection: _awaken(connection, pid), owner=pid)
        self._require_gone(pid)  # somebody else may have been faster
        process = Process(pid, record.parent, manifest, spec, machine.clock.now())
        process.root = left.root
        process.state = "STOPPED" if record.state == "STOPPED" else "NEW"
        begin_again(process, Past(rows, num_tokens, left.num_printed_chars))
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
            left = await processes.find_left(self._machine.db, pid)
            if left is None or left.record.ended_at is not None:
                return None
            if tenant not in (None, left.record.tenant):
                return None
            if name in DEADLY:
                return await self._end(left, sender)
            if name == "STOP" or left.record.state == "STOPPED":
                await self._stop_or_continue(pid, name)
            return Bereaved(woken=(pid,) if name == "CONT" else ())

    async def _stop_or_continue(self, pid: int, name: SignalName) -> None:
        def mark(connection: Connection) -> None:
            waits.forget_waits(connection, pid)
            state = "STOPPED" if name == "STOP" else waits.AWAKE
            processes.change_unfinished(connection, pid, state=state)

        await self._machine.db.write(mark, owner=pid, keep=True)

    async def _end(self, left: Left, sender: str) -> Bereaved:
        """End a process that does not live."""
        machine, record, pid = self._machine, left.record, left.record.pid
        error = killed(pid, sender)
        ended = ProcessExit(pid, "killed", EXIT_KILLED, "", f"{error.code}: {error.message}")
        try:
            rows = await load_outline(machine.db, pid)
            num_tokens = await count_outlined_tokens(machine.db, rows)
        except E_STORAGE:  # damaged, which is no reason to live
            num_tokens = (0, 0)
        known = (record.prompt_tokens, record.completion_tokens)
        bereaved = await write_end(machine, ended, max(num_tokens, known))
        self._find_terminal(left.root).forget(pid)
        machine.models.hint(pid, "gone")
        machine.table.tell_end(pid, ended, error)
        return bereaved


def _awaken(connection: Connection, pid: int) -> None:
    """A process that slept, or could not go on, does."""
    waits.wake(connection, [pid])
    processes.change_unfinished(connection, pid, result=None)


async def read_past(machine: Machine, pid: int) -> Past:
    """What a process has done. E_STORAGE if its journal is damaged."""
    rows = await load_outline(machine.db, pid)
    num_tokens = await count_outlined_tokens(machine.db, rows)
    return Past(rows, num_tokens, await machine.db.read(lambda c: count_printed_chars(c, pid)))


def begin_again(process: Process, past: Past) -> None:
    """Let a process go on from its journal, which holds all that it has done."""
    process.begin_again(past.rows, past.num_tokens, past.num_printed_chars)


def say_that_it_goes_on(process: Process) -> None:
    """Tell the person, before the first call is answered."""
    finished = sum(row.state == "DONE" for row in process.journaled.values())
    process.terminal.emit(Notice(f"process {process.pid} goes on after {finished} finished calls"))


def note_why_left(machine: Machine, pid: int, error: SyscallError) -> str:
    """Say in the log and in the record why a process does not go on; the reason."""
    what = error.message.partition("; fix: ")[0]
    logger.error("process %d is left: %s", pid, what)
    machine.db.write_nowait(
        lambda connection: processes.change_unfinished(connection, pid, result=what), owner=pid
    )
    return what


def require_folder(workspace: str) -> None:
    """E_ARG if there is no such folder."""
    if not os.path.isdir(workspace):
        raise E_ARG(f"there is no folder {workspace}", field="workspace")
