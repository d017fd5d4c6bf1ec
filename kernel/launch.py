"""Launch: from an app's name to a running process, and from its end to a record.

The launcher owns a process's life cycle. It starts a task per process: fork, serve its calls,
reap, write how it ended, tell who waits. A process that sleeps or was left behind has no task and
no control block: it is its record, its journal and its waits, until it is brought back.
"""

import logging
import secrets
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path
from weakref import WeakValueDictionary

import anyio
import msgspec

from llmos.memory import processes, waits
from llmos.memory.db import Connection
from llmos.memory.waits import Wait
from llmos.syscalls.errors import E_LIMIT, E_STORAGE, SyscallError, raise_reply
from llmos.syscalls.process import SignalName, State
from llmos.syscalls.wire import Exit

from .applog import AppLog
from .capability import narrow
from .checkpoint import complete_checkpoint
from .codehash import identify_code
from .ending import Bereaved, find_divergence, judge, was_cut_off, write_end
from .forking import copy_past, plan_fork
from .machine import Birth, Machine
from .manifest import find_app
from .osprocess import OsProcesses
from .process import TENANT, Process, ProcessSpec
from .protocol import ReplayReport
from .rerun import rerun
from .restart import restart
from .runqueue import RunQueue
from .sampling import Overrides
from .sleepers import (
    DEADLY,
    Sleepers,
    begin_again,
    note_why_left,
    read_past,
    say_that_it_goes_on,
)
from .terminal import Terminal
from .workspace import require_folder
from .zygote import Zygote

MAX_PROCESSES = 200
NUM_KEPT_FREE = 20  # so that a storm of sleepers leaves room for who comes
TOKEN_BYTES = 16
logger = logging.getLogger(__name__)


class Launcher:
    """Starts, signals and ends processes. See machine.Launcher for the contract."""

    def __init__(self, machine: Machine, zygote: Zygote) -> None:
        self._machine = machine
        self._zygote = zygote
        self._os_processes = OsProcesses(machine, zygote)
        # What was prepared counts as a process, until it starts or is given up by its caller.
        self._unborn: WeakValueDictionary[int, Birth] = WeakValueDictionary()
        self.run_queue = RunQueue(machine)
        self._sleepers = Sleepers(machine, self._begin)

    # -- birth

    @property
    def has_room(self) -> bool:
        """Whether one process more may be woken."""
        return self._count() < MAX_PROCESSES - NUM_KEPT_FREE

    def _count(self) -> int:
        return len(self._machine.table) + len(self._unborn)

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
        if self._count() >= MAX_PROCESSES:
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
        parent = self._machine.table.get(birth.parent) if birth.parent is not None else None
        if parent is not None:
            process.root, process.is_brought_back = parent.root, parent.is_brought_back
        self._begin(process, terminal)
        return process

    def _begin(self, process: Process, terminal: Terminal) -> None:
        process.terminal = terminal
        self._machine.table.terminals[process.root] = terminal
        self._machine.table.add(process)
        self._machine.tasks.start_soon(self._live, process)

    # -- return

    async def resume(self, pid: int, terminal: Terminal) -> Process:
        """Bring back a process that does not live, at this terminal; E_ARG if there is none."""
        return await self._sleepers.resume(pid, terminal)

    async def bring_back(self, pid: int) -> None:
        """Let a process go on that was woken or left behind, if it still is to go on.

        One that cannot stays as it is, with the reason in its record. E_STORAGE while the store
        fails.
        """
        await self._sleepers.bring_back(pid)

    async def attach(self, pid: int) -> Terminal:
        """Bring a person to a process that lives, sleeps or was left behind; its terminal.

        E_ARG when it has ended or has a person, and what `resume` raises.
        """
        return await self._sleepers.attach(pid)

    def wake(self, pids: Iterable[int]) -> None:
        """Let processes go on that were taken out of their sleep, as soon as there is room."""
        self.run_queue.add(pids)

    def recover(self) -> None:
        """Let go on what the kernel before this one left behind, and wake whoever is due."""
        self.run_queue.recover()

    async def wake_if_asleep(self, pid: int) -> None:
        """Something has come that no row tells of: a person's answer."""
        process = self._machine.table.get(pid)
        if process is not None:
            process.is_wanted = True
        else:
            self.wake(await self._machine.db.write(lambda c: waits.wake(c, [pid]), keep=True))

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
        past = await read_past(self._machine, pid)
        process = self.start(pid, birth, terminal)
        begin_again(process, past)
        if terminal.is_attended:
            terminal.attend(pid)
        say_that_it_goes_on(process)
        return process

    async def replay(self, pid: int) -> ReplayReport:
        """Run an app again, answered from its process's journal alone."""
        return await rerun(self._machine, self._zygote, pid)

    # -- life

    async def _live(self, process: Process) -> None:
        """A process's whole life until it ends or sleeps.

        When the zygote dies it takes the OS process along; then the process goes on in another one
        and replays its journal, as after the death of a kernel.
        """
        log = AppLog(process.pid, self._log_path(process.pid), process.terminal)
        await identify_code(process, log)
        try:
            while True:
                await self._zygote.wait_up()
                token = secrets.token_hex(TOKEN_BYTES)
                ending, is_lost = await self._os_processes.run(process, token, log)
                if process.killed_by is None and process.next_argv is not None:
                    await identify_code(process, log)
                    await complete_checkpoint(self._machine, process)
                    continue
                divergence = find_divergence(ending)
                if process.killed_by is None and divergence is not None:
                    raise_reply(divergence)  # another version of the app may go on
                is_evicted = process.leaving is not None and was_cut_off(ending)
                if process.killed_by is None and is_evicted and await self._fall_asleep(process):
                    return
                if process.killed_by is not None or not (is_lost or is_evicted):
                    if await restart(self._machine, process, ending):
                        self.run_queue.poke()
                        return
                    break
                # what its calls did before they were cut off
                await self._machine.db.flush(owner=process.pid)
                begin_again(process, await read_past(self._machine, process.pid))
                if is_lost:
                    say_that_it_goes_on(process)
        except SyscallError as error:
            if process.killed_by is None:
                self._leave(process, error)
                return
            ending = None
        await self._bury(process, ending, log)

    async def ask_idle(self, process: Process) -> bool:
        """Whether an app says that only a reply to one of its calls can make it go on."""
        return await self._os_processes.ask_idle(process)

    def evict(self, process: Process, waits: Sequence[Wait]) -> None:
        """Take a process its OS process; it sleeps until one of these waits is over."""
        process.leaving, process.is_wanted = tuple(waits), False
        self._zygote.send_signal(process.pid, signal.SIGKILL)

    async def _fall_asleep(self, process: Process) -> bool:
        """Let go of a process whose OS process is gone; False if it is to go on at once.

        What fires a wait in the meantime finds its row, or is found when that is written; what
        has no row, a signal or an answer, is seen at the end, after which the record decides.
        """
        machine, pid, rows = self._machine, process.pid, process.leaving or ()
        tokens = (process.prompt_tokens, process.completion_tokens)

        def sleep(connection: Connection) -> bool:
            columns = dict(zip(("prompt_tokens", "completion_tokens"), tokens, strict=True))
            is_asleep = waits.fall_asleep(connection, rows, machine.clock.now())
            if is_asleep:
                processes.change(connection, pid, **columns)
            return is_asleep

        if not await machine.db.write(sleep, keep=True):
            return False
        is_wanted = process.is_wanted or process.terminal.has_answer(pid)
        if is_wanted or process.killed_by is not None or process.state == "STOPPED":
            await machine.db.write(lambda connection: waits.wake(connection, [pid]), keep=True)
            return False
        machine.models.hint(pid, "person", _expected_seconds(rows, machine.clock.now()))
        machine.models.resume(pid)  # should the disk have paused it: nobody else will
        machine.table.remove(process)
        self.run_queue.poke()
        return True

    def os_pid(self, pid: int) -> int | None:
        """The OS process that a live process runs as, once it does."""
        return self._zygote.find_os_pid(pid)

    def _log_path(self, pid: int) -> Path:
        """Where an app's own stdout and stderr go."""
        return self._machine.config.logs / f"{pid}.log"

    # -- signals

    def signal(self, process: Process, name: SignalName, *, sender: str | None = None) -> None:
        """Deliver a signal. STOP and CONT act on the code and on its generations alike."""
        if name in DEADLY:
            process.killed_by = process.killed_by or sender or name
        match name:
            case "STOP":
                process.state = "STOPPED"
                self._mark(process.pid, "STOPPED")
                self._machine.models.pause(process.pid)
                self._zygote.send_signal(process.pid, signal.SIGSTOP)
            case "CONT":
                if process.state == "STOPPED":
                    self._mark(process.pid, "NEW")
                process.state = "READY" if process.greeted.is_set() else "NEW"
                self._zygote.send_signal(process.pid, signal.SIGCONT)
                self._machine.models.resume(process.pid)
            case "TERM":
                self._machine.tasks.start_soon(self._terminate, process)
            case "KILL":
                self._cancel_calls(process)
                self._zygote.send_signal(process.pid, signal.SIGKILL)

    def _mark(self, pid: int, state: State) -> None:
        """Note in the record that a process is stopped, or is no longer."""
        self._machine.db.write_nowait(
            lambda connection: processes.change_unfinished(connection, pid, state=state),
            owner=pid,
        )

    def cut_off(self, process: Process) -> None:
        """End a process's OS process; the process itself goes on, or begins anew."""
        self._zygote.send_signal(process.pid, signal.SIGKILL)

    async def _terminate(self, process: Process) -> None:
        """Cancel what is in flight, ask the app to end, and kill it if it does not in time."""
        self._cancel_calls(process)
        self.signal(process, "CONT")
        with anyio.move_on_after(self._machine.config.kill_grace_seconds):
            if await self._os_processes.ask_to_end(process.pid):
                await process.ended.wait()
            return
        self._zygote.send_signal(process.pid, signal.SIGKILL)

    def _cancel_calls(self, process: Process) -> None:
        for scope in process.in_flight.values():
            scope.cancel()

    async def deliver(
        self, pid: int, name: SignalName, *, tenant: str | None = None, sender: str | None = None
    ) -> bool:
        """Deliver a signal to a process that lives, sleeps or was left behind.

        False if the tenant (None: any) has none of this number, or it has ended.
        """
        found = self._machine.table.get(pid)
        match found or await self._sleepers.signal(pid, name, tenant, sender or name):
            case Process() as process:
                if tenant not in (None, process.tenant):
                    return False
                self.signal(process, name, sender=sender)
                return True
            case Bereaved() as left:
                await self._tell(left)
                return True
            case _:
                return False

    async def _tell(self, left: Bereaved) -> None:
        """Wake whom an end wakes; children end with their parent."""
        self.wake(left.woken)
        for child in left.children:
            await self.deliver(child, "TERM")

    # -- end

    async def _bury(self, process: Process, ending: Exit | None, log: AppLog) -> None:
        """Write how the process ended, then tell who waits; its children end with it."""
        machine = self._machine
        process.exit, process.error = judge(process, ending, log)
        process.state = "ZOMBIE"
        left = Bereaved(tuple(child.pid for child in machine.table.children(process.pid)))
        try:
            num_tokens = (process.prompt_tokens, process.completion_tokens)
            left = await write_end(machine, process.exit, num_tokens)
        except E_STORAGE as error:
            logger.warning("the end of process %d is not stored: %s", process.pid, error)
            process.error = process.error or error.reply()
            self.recover()  # finds whom that end wakes when it is stored
        machine.models.hint(process.pid, "gone")
        self._part(process)
        await self._tell(left)

    def _leave(self, process: Process, error: SyscallError) -> None:
        """Let a process go that cannot go on now; its record stays, to be resumed."""
        what = note_why_left(self._machine, process.pid, error)
        message = f"{what}; fix: llmos run --resume {process.pid}"
        process.error = msgspec.structs.replace(error.reply(), message=message)
        self._part(process)
        if isinstance(error, E_STORAGE) and error.retry_after_seconds is not None:
            self.recover()  # as soon as the store works again

    def _part(self, process: Process) -> None:
        """The process is no longer of this kernel; tell who waits."""
        self._machine.models.resume(process.pid)
        self._machine.table.remove(process)
        process.terminal.forget(process.pid)
        self._machine.table.tell_end(process.pid, process.exit, process.error)


def _expected_seconds(rows: Iterable[Wait], now: float) -> float | None:
    """How long a process will sleep, if a time wakes it."""
    return min((row.due_at - now for row in rows if row.due_at is not None), default=None)
