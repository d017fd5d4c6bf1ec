"""Launch: from an app's name to a running process, and from its end to a record.

The launcher owns a process's life cycle. It starts a task per process: fork, serve its calls,
reap, write how it ended, tell who waits.
"""

import logging
import secrets
import shlex
import signal
from contextlib import aclosing
from pathlib import Path
from typing import NamedTuple
from weakref import WeakValueDictionary

import anyio
import msgspec

from llmos.memory import processes
from llmos.memory.db import Connection
from llmos.memory.journal import JournalRow, load, read_output
from llmos.memory.processes import ProcessRecord
from llmos.syscalls.errors import (
    E_APP,
    E_ARG,
    E_CANCELLED,
    E_FRAME,
    E_KERNEL,
    E_LIMIT,
    E_STORAGE,
    ErrorReply,
    SyscallError,
)
from llmos.syscalls.process import ExitStatus, ProcessExit, SignalName
from llmos.syscalls.runtime import EXIT_CODES, EXIT_FAILED, EXIT_KILLED, Program
from llmos.syscalls.stream import BytesOnlyStream, SocketStream
from llmos.syscalls.wire import Deliver, Exit, encode_frame

from .applog import AppLog
from .capability import narrow
from .codehash import identify_code
from .forking import copy_past, plan_fork
from .gates.app import serve_app
from .listing import decode_spec, shorten
from .machine import Birth, Machine
from .manifest import find_app
from .process import TENANT, Process, ProcessSpec
from .protocol import Notice, ReplayReport
from .replay import count_tokens
from .rerun import rerun
from .sampling import Overrides
from .terminal import Terminal
from .workspace import require_folder
from .zygote import Zygote, open_sockets

MAX_PROCESSES = 200
TOKEN_BYTES = 16
LAST_WORDS_SECONDS = 1.0
DEADLY = ("TERM", "KILL")
logger = logging.getLogger(__name__)


class Past(NamedTuple):
    """What a process that is to go on has done: its calls and its output."""

    rows: list[JournalRow]
    output: str


class Launcher:
    """Starts, signals and ends processes. See machine.Launcher for the contract."""

    def __init__(self, machine: Machine, zygote: Zygote) -> None:
        self._machine = machine
        self._zygote = zygote
        self._streams: dict[int, SocketStream] = {}
        # What was prepared counts as a process, until it starts or is given up by its caller.
        self._unborn: WeakValueDictionary[int, Birth] = WeakValueDictionary()

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
        """Check what can be wrong with a new process. Raises E_ARG, E_PERM, E_LIMIT or E_KERNEL."""
        self._require_room()
        require_folder(workspace)
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
        birth = Birth(manifest, parent.pid if parent is not None else None, spec)
        self._unborn[id(birth)] = birth
        return birth

    def _require_room(self) -> None:
        """E_LIMIT, E_KERNEL or E_STORAGE when no new process can be started."""
        if len(self._machine.table) + len(self._unborn) >= MAX_PROCESSES:
            raise E_LIMIT(
                f"{MAX_PROCESSES} processes live, which is the limit; fix: wait for one to end",
                field="processes",
            )
        self._zygote.require_working()
        self._machine.degraded.require_store()

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
        self._unborn.pop(id(birth), None)
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
            raise E_ARG(
                f"process {pid} has ended{_how(record)}; fix: {_again(record)}", field="pid"
            )
        self._machine.degraded.require_store()
        spec = decode_spec(record)
        require_folder(spec.workspace)
        past = await self._read_past(pid)
        manifest = find_app(spec.app, Path(spec.workspace))
        self._require_gone(pid)  # somebody else may have been faster
        process = self.start(pid, Birth(manifest, record.parent, spec), terminal)
        _go_on(process, past)
        return process

    async def fork(
        self,
        source: int,
        at: int,
        terminal: Terminal,
        *,
        model: str | None,
        sampling: Overrides,
    ) -> Process:
        """Start a process that has made the first `at` calls of another one.

        E_ARG with the field for what there is not or cannot be taken along, and as for `prepare`.
        """
        self._require_room()
        birth = await plan_fork(self._machine, source, model, sampling)

        def write(connection: Connection) -> int:
            pid = self.record(connection, birth)
            copy_past(connection, source, at, pid)
            return pid

        pid = await self._machine.db.write(write)
        past = await self._read_past(pid)
        process = self.start(pid, birth, terminal)
        _go_on(process, past)
        return process

    async def replay(self, pid: int) -> ReplayReport:
        """Run an app again, answered from its process's journal alone."""
        return await rerun(self._machine, self._zygote, pid)

    def _require_gone(self, pid: int) -> None:
        if self._machine.table.get(pid) is not None:
            raise E_ARG(f"process {pid} is running", field="pid")

    # -- life

    async def _live(self, process: Process) -> None:
        """A process's whole life in this kernel.

        When the zygote dies it takes the OS process along; then the process goes on in another one
        and replays its journal, as after the death of a kernel.
        """
        log = AppLog(process.pid, self._log_path(process.pid), process.terminal)
        await identify_code(process, log)
        try:
            while True:
                await self._zygote.wait_up()
                ending, is_lost = await self._run(process, log)
                if not is_lost or process.killed_by is not None:
                    break
                await self._machine.db.flush()  # what its calls did before they were cut off
                _go_on(process, await self._read_past(process.pid))
        except SyscallError as error:
            if process.killed_by is None:
                self._leave(process, error)
                return
            ending = None
        await self._bury(process, ending, log)

    async def _run(self, process: Process, log: AppLog) -> tuple[Exit | None, bool]:
        """One OS process from fork to reap: its last frame, and whether it was lost before that."""
        token = secrets.token_hex(TOKEN_BYTES)
        ending: Exit | None
        try:
            (call_end, app_end), (log_end, app_log_end) = open_sockets()
        except OSError as error:
            reason = f"no sockets for the app: {error.strerror}; fix: raise the limit (ulimit -n)"
            return _refuse(E_LIMIT(reason, field="descriptors")), False
        stream = await BytesOnlyStream.adopt(call_end)
        log_stream = await SocketStream.adopt(log_end)
        async with aclosing(stream), aclosing(log_stream), anyio.create_task_group() as tasks:
            tasks.start_soon(log.relay, log_stream)
            self._streams[process.pid] = stream
            try:
                await self._zygote.fork(self._program(process, token), app_end, app_log_end)
            except E_LIMIT as error:
                ending, is_lost = _refuse(error), False
                tasks.cancel_scope.cancel()
            else:
                self._deliver_early_signals(process)
                ending = await self._serve(process, stream, token)
                is_lost = await self._reap(process) is None and _was_cut_off(ending)
                tasks.cancel_scope.deadline = anyio.current_time() + LAST_WORDS_SECONDS
        del self._streams[process.pid]
        return ending, is_lost

    async def _read_past(self, pid: int) -> Past:
        return Past(await load(self._machine.db, pid), await read_output(self._machine.db, pid))

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
        return self._zygote.find_os_pid(pid)

    def _log_path(self, pid: int) -> Path:
        """Where an app's own stdout and stderr go."""
        return self._machine.config.logs / f"{pid}.log"

    async def _reap(self, process: Process) -> int | None:
        """Wait for the OS process; one that stays after it has said goodbye is killed."""
        with anyio.move_on_after(self._machine.config.kill_grace_seconds):
            return await self._zygote.wait(process.pid)
        self._zygote.send_signal(process.pid, signal.SIGKILL)
        return await self._zygote.wait(process.pid)

    # -- signals

    def signal(self, process: Process, name: SignalName, *, sender: str | None = None) -> None:
        """Deliver a signal. STOP and CONT act on the code and on its generations alike."""
        if name in DEADLY:
            process.killed_by = process.killed_by or sender or name
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
                self._cancel_calls(process)
                self._zygote.send_signal(process.pid, signal.SIGKILL)

    async def _terminate(self, process: Process) -> None:
        """Cancel what is in flight, ask the app to end, and kill it if it does not in time."""
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

    async def end_evicted(self, pid: int, name: SignalName, tenant: str | None = None) -> bool:
        """End a process that no kernel runs, in the store alone; False if the tenant (None: any)
        has none of this number."""
        record = await processes.get(self._machine.db, pid)
        if record is None or record.ended_at is not None or name not in DEADLY:
            return False
        if tenant not in (None, record.tenant):
            return False
        error = E_CANCELLED(f"process {pid} was ended by {name}").reply()
        text = f"{error.code}: {error.message}"
        rows = await load(self._machine.db, pid)
        await self._write_end(ProcessExit(pid, "killed", EXIT_KILLED, "", text), count_tokens(rows))
        return True

    def _cancel_calls(self, process: Process) -> None:
        for scope in process.in_flight.values():
            scope.cancel()

    # -- end

    async def _bury(self, process: Process, ending: Exit | None, log: AppLog) -> None:
        """Write how the process ended, then tell who waits; its children end with it."""
        machine = self._machine
        process.exit, process.error = self._judge(process, ending, log)
        process.state = "ZOMBIE"
        try:
            num_tokens = (process.prompt_tokens, process.completion_tokens)
            await self._write_end(process.exit, num_tokens)
        except E_STORAGE as error:
            logger.warning("the end of process %d is not stored: %s", process.pid, error)
            process.error = process.error or error.reply()
        machine.models.hint(process.pid, "gone")
        self._part(process)
        for child in machine.table.children(process.pid):
            self.signal(child, "TERM")

    def _leave(self, process: Process, error: SyscallError) -> None:
        """Let a process go that cannot go on now; its record stays, to be resumed."""
        what = error.message.partition("; fix: ")[0]
        process.error = E_KERNEL(f"{what}; fix: llmos run --resume {process.pid}").reply()
        logger.error("process %d is left: %s", process.pid, what)
        self._part(process)

    def _part(self, process: Process) -> None:
        """The process is no longer of this kernel; tell who waits."""
        self._machine.models.resume(process.pid)
        self._machine.table.remove(process)
        process.terminal.forget(process.pid)
        process.ended.set()

    async def _write_end(self, ended: ProcessExit, num_tokens: tuple[int, int]) -> None:
        await processes.update(
            self._machine.db,
            ended.pid,
            state="ZOMBIE",
            exit_status=ended.status,
            exit_code=ended.code,
            result=ended.error or ended.result,
            ended_at=self._machine.clock.now(),
            prompt_tokens=num_tokens[0],
            completion_tokens=num_tokens[1],
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


def _refuse(error: E_LIMIT) -> Exit:
    """The ending of a process that there was no room for."""
    return Exit(EXIT_CODES[error.code], error=error.reply())


def _was_cut_off(ending: Exit | None) -> bool:
    """Whether an app's stream ended before its last frame, or inside of one."""
    return ending is None or (ending.error is not None and ending.error.code == E_FRAME.code)


def _go_on(process: Process, past: Past) -> None:
    """Let a process go on from its journal, which holds all that it has done."""
    process.begin_again(past.rows, count_tokens(past.rows), len(past.output))
    finished = sum(row.state == "DONE" for row in past.rows)
    process.terminal.emit(Notice(f"process {process.pid} goes on after {finished} finished calls"))


def _how(record: ProcessRecord) -> str:
    """How a process ended, for a sentence that says that it has."""
    error = (record.result or "").partition(": ")[2] if record.exit_status != "exited" else ""
    return f" ({error})" if error else ""


def _again(record: ProcessRecord) -> str:
    """The command that starts an app anew."""
    spec = decode_spec(record)
    return f"llmos run {shlex.join((spec.app, *shorten(spec.argv)))}"
