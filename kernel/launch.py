"""Launch: from an app's name to a running process, and from its end to a record.

The launcher owns a process's life cycle. It starts a task per process: fork, serve its calls,
reap, write how it ended, tell who waits.
"""

import logging
import os
import secrets
import signal
import socket
from contextlib import aclosing
from pathlib import Path

import anyio
import msgspec

from llmos.memory import processes
from llmos.memory.db import Connection
from llmos.memory.journal import load, read_output
from llmos.syscalls.errors import E_APP, E_ARG, E_CANCELLED, E_LIMIT, E_STORAGE, ErrorReply
from llmos.syscalls.process import ExitStatus, ProcessExit, SignalName
from llmos.syscalls.runtime import EXIT_FAILED, EXIT_KILLED, Program
from llmos.syscalls.stream import SocketStream
from llmos.syscalls.wire import Deliver, Exit, encode_frame

from .applog import AppLog
from .capability import narrow
from .gates.app import serve_app
from .listing import decode_spec
from .machine import Birth, Machine
from .manifest import find_app
from .process import TENANT, Process, ProcessSpec
from .protocol import Notice
from .replay import count_tokens
from .terminal import Terminal
from .zygote import Zygote

MAX_PROCESSES = 200
TOKEN_BYTES = 16
LAST_WORDS_SECONDS = 1.0
logger = logging.getLogger(__name__)


class Launcher:
    """Starts, signals and ends processes. See machine.Launcher for the contract."""

    def __init__(self, machine: Machine, zygote: Zygote) -> None:
        self._machine = machine
        self._zygote = zygote
        self._streams: dict[int, SocketStream] = {}

    # -- birth

    def prepare(
        self,
        app: str,
        argv: tuple[str, ...],
        *,
        workspace: str,
        readable: tuple[str, ...],
        model: str | None,
        parent: Process | None,
    ) -> Birth:
        """Check what can be wrong with a new process. Raises E_ARG, E_PERM or E_LIMIT."""
        if len(self._machine.table) >= MAX_PROCESSES:
            raise E_LIMIT(f"{MAX_PROCESSES} processes live; wait for one to end")
        _require_folder(workspace)
        manifest = find_app(app, Path(workspace))
        capabilities = manifest.capabilities
        if parent is not None:
            capabilities = narrow(parent.capabilities, capabilities)
        name = manifest.name if manifest.packaged else str(manifest.folder)
        spec = ProcessSpec(
            name,
            argv,
            workspace,
            readable,
            model or self._machine.config.model,
            secrets.token_hex(TOKEN_BYTES),
            capabilities,
        )
        return Birth(manifest, parent.pid if parent is not None else None, spec)

    def record(self, connection: Connection, birth: Birth) -> int:
        """Write the new process's record; returns its pid."""
        return processes.create_row(
            connection,
            app=birth.manifest.name,
            spec=msgspec.msgpack.encode(birth.spec),
            tenant=TENANT,
            model=birth.spec.model,
            state="NEW",
            parent=birth.parent,
            created_at=self._machine.clock.now(),
        )

    def start(self, pid: int, birth: Birth, terminal: Terminal) -> Process:
        """Bring a recorded process to life."""
        process = Process(pid, birth.parent, birth.manifest, birth.spec, self._machine.clock.now())
        process.terminal = terminal
        self._machine.table.add(process)
        self._machine.tasks.start_soon(self._live, process)
        return process

    async def resume(self, pid: int, terminal: Terminal) -> Process:
        """Bring a process back whose kernel died; E_ARG if there is none to bring back."""
        self._require_gone(pid)
        record = await processes.get(self._machine.db, pid)
        if record is None:
            raise E_ARG(f"there is no process {pid}", field="pid")
        if record.ended_at is not None:
            raise E_ARG(f"process {pid} has ended", field="pid")
        spec = decode_spec(record)
        _require_folder(spec.workspace)
        rows = await load(self._machine.db, pid)
        output = await read_output(self._machine.db, pid)
        manifest = find_app(spec.app, Path(spec.workspace))
        self._require_gone(pid)  # somebody else may have been faster
        process = self.start(pid, Birth(manifest, record.parent, spec), terminal)
        process.journaled = {(row.strand, row.seq): row for row in rows}
        process.prompt_tokens, process.completion_tokens = count_tokens(rows)
        process.num_printed_chars = len(output)
        finished = sum(row.state == "DONE" for row in rows)
        terminal.emit(Notice(f"process {pid} goes on after {finished} finished calls"))
        return process

    def _require_gone(self, pid: int) -> None:
        if self._machine.table.get(pid) is not None:
            raise E_ARG(f"process {pid} is running", field="pid")

    # -- life

    async def _live(self, process: Process) -> None:
        """A process's whole life in this kernel."""
        log = AppLog(process.pid, self._log_path(process.pid), process.terminal)
        ending: Exit | None = None
        call_end, app_end = socket.socketpair()
        log_end, app_log_end = socket.socketpair()
        stream = await SocketStream.adopt(call_end)
        log_stream = await SocketStream.adopt(log_end)
        async with aclosing(stream), aclosing(log_stream), anyio.create_task_group() as tasks:
            tasks.start_soon(log.relay, log_stream)
            self._streams[process.pid] = stream
            token = secrets.token_hex(TOKEN_BYTES)
            try:
                await self._zygote.fork(self._program(process, token), app_end, app_log_end)
            except OSError as error:
                ending = Exit(1, error=E_APP(f"the zygote cannot start apps: {error}").reply())
                tasks.cancel_scope.cancel()
            else:
                self._deliver_early_signals(process)
                ending = await self._serve(process, stream, token)
                await self._reap(process)
                tasks.cancel_scope.deadline = anyio.current_time() + LAST_WORDS_SECONDS
        del self._streams[process.pid]
        await self._bury(process, ending, log)

    def _deliver_early_signals(self, process: Process) -> None:
        """What was sent before there was an OS process: nothing of it has run yet."""
        if process.killed_by is not None:
            self._zygote.send_signal(process.pid, signal.SIGKILL)
        elif process.state == "STOPPED":
            self._zygote.send_signal(process.pid, signal.SIGSTOP)

    async def _serve(self, process: Process, stream: SocketStream, token: str) -> Exit | None:
        """Serve calls to the end. What a dead app has left may still hold its socket open."""

        async def close_when_dead() -> None:
            await self._zygote.wait_dead(process.pid)
            await anyio.sleep(LAST_WORDS_SECONDS)
            await stream.aclose()

        async with anyio.create_task_group() as watch:
            watch.start_soon(close_when_dead)
            ending = await serve_app(self._machine, process, stream, token)
            watch.cancel_scope.cancel()
        return ending

    def _program(self, process: Process, token: str) -> Program:
        module, function, folder = process.manifest.program()
        return Program(
            process.pid,
            token,
            module,
            function,
            folder,
            process.spec.workspace,
        )

    def os_pid(self, pid: int) -> int | None:
        """The OS process that a live process runs as, once it does."""
        return self._zygote.os_pids.get(pid)

    def _log_path(self, pid: int) -> Path:
        """Where an app's own stdout and stderr go."""
        return self._machine.config.logs / f"{pid}.log"

    async def _reap(self, process: Process) -> None:
        """Wait for the OS process; one that stays after it has said goodbye is killed."""
        with anyio.move_on_after(self._machine.config.kill_grace_seconds):
            await self._zygote.wait(process.pid)
            return
        self._zygote.send_signal(process.pid, signal.SIGKILL)
        await self._zygote.wait(process.pid)

    # -- signals

    def signal(self, process: Process, name: SignalName) -> None:
        """Deliver a signal. STOP and CONT act on the code and on its generations alike."""
        match name:
            case "STOP":
                process.state = "STOPPED"
                self._machine.models.pause(process.pid)
                self._zygote.send_signal(process.pid, signal.SIGSTOP)
            case "CONT":
                process.state = "READY" if process.greeted.is_set() else "NEW"
                self._zygote.send_signal(process.pid, signal.SIGCONT)
                self._machine.models.resume(process.pid)
            case "TERM":
                self._machine.tasks.start_soon(self._terminate, process)
            case "KILL":
                process.killed_by = process.killed_by or name
                self._cancel_calls(process)
                self._zygote.send_signal(process.pid, signal.SIGKILL)

    async def _terminate(self, process: Process) -> None:
        """Cancel what is in flight, ask the app to end, and kill it if it does not in time."""
        process.killed_by = process.killed_by or "TERM"
        self._cancel_calls(process)
        self.signal(process, "CONT")
        stream = self._streams.get(process.pid)
        with anyio.move_on_after(self._machine.config.kill_grace_seconds):
            if stream is not None:
                try:
                    await stream.send(encode_frame(Deliver("TERM")))
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    return
            await process.ended.wait()
            return
        self._zygote.send_signal(process.pid, signal.SIGKILL)

    def _cancel_calls(self, process: Process) -> None:
        for scope in process.in_flight.values():
            scope.cancel()

    # -- end

    async def _bury(self, process: Process, ending: Exit | None, log: AppLog) -> None:
        """Write how the process ended, then tell who waits; its children end with it."""
        machine = self._machine
        process.exit, process.error = self._judge(process, ending, log)
        try:
            await self._write_end(process, process.exit)
        except E_STORAGE as error:
            logger.warning("the end of process %d is not stored: %s", process.pid, error)
            process.error = process.error or error.reply()
        process.state = "ZOMBIE"
        machine.models.resume(process.pid)
        machine.table.remove(process)
        if process.pid in process.terminal.foreground:
            process.terminal.foreground.remove(process.pid)
        process.ended.set()
        for child in machine.table.children(process.pid):
            self.signal(child, "TERM")

    async def _write_end(self, process: Process, ended: ProcessExit) -> None:
        await processes.update(
            self._machine.db,
            process.pid,
            state="ZOMBIE",
            exit_status=ended.status,
            exit_code=ended.code,
            result=ended.error or ended.result,
            ended_at=self._machine.clock.now(),
            prompt_tokens=process.prompt_tokens,
            completion_tokens=process.completion_tokens,
        )

    def _judge(
        self, process: Process, ending: Exit | None, log: AppLog
    ) -> tuple[ProcessExit, ErrorReply | None]:
        """What an ending means, and the error to show."""
        status: ExitStatus = "exited"
        code, result, error = EXIT_FAILED, "", None
        if process.killed_by is not None:
            status, code = "killed", EXIT_KILLED
            error = E_CANCELLED(f"process {process.pid} was ended by {process.killed_by}").reply()
        elif ending is None:
            status = "failed"
            why = log.last_words() or "it said nothing"
            error = E_APP(f"the app crashed: {why} (log: {log.path})").reply()
        else:
            status = "failed" if ending.code else "exited"
            code, result, error = ending.code, ending.result, ending.error
        text = f"{error.code}: {error.message}" if error is not None else ""
        printed = process.num_printed_chars > 0
        return ProcessExit(process.pid, status, code, result, text, printed), error


def _require_folder(workspace: str) -> None:
    if not os.path.isdir(workspace):
        raise E_ARG(f"there is no folder {workspace}", field="workspace")
