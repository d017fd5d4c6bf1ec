"""The machine: the parts that boot puts together, as handlers and gates see them."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import anyio
import msgspec
from anyio.abc import TaskGroup

from llmos.memory.db import Connection, Database
from llmos.memory.manager import MemoryManager
from llmos.memory.waits import Wait
from llmos.syscalls.errors import SyscallError
from llmos.syscalls.process import SignalName

from .chunks import Chunks
from .clock import Clock
from .config import Config
from .degraded import DegradedMode
from .journal import Journal
from .manifest import Manifest
from .models import Models
from .process import End, Process, ProcessSpec, ProcessTable
from .protocol import ReplayReport
from .sampling import Overrides
from .terminal import Terminal
from .tools.registry import Registry

LAST_WORDS_SECONDS = 1.0


class Birth(msgspec.Struct, frozen=True, weakref=True):
    """A process that is about to exist: all but its pid."""

    manifest: Manifest
    parent: int | None
    spec: ProcessSpec


class Launcher(Protocol):
    """Brings processes to life and signals them; a layer above gives it, handlers use it."""

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
        ...

    def record(self, connection: Connection, birth: Birth) -> int:
        """Write the new process's record; returns its pid."""
        ...

    def start(self, pid: int, birth: Birth, terminal: Terminal) -> Process:
        """Bring a recorded process to life."""
        ...

    async def resume(self, pid: int, terminal: Terminal) -> Process:
        """Bring back a process that does not live, at this terminal; E_ARG if there is none."""
        ...

    async def bring_back(self, pid: int) -> None:
        """Let a process go on that was woken or left behind, if it still is to go on."""
        ...

    async def attach(self, pid: int) -> Terminal:
        """Bring a person to a process that lives, sleeps or was left behind; its terminal.

        E_ARG when it has ended or has a person.
        """
        ...

    async def fork(
        self,
        source: int,
        at: int,
        terminal: Terminal,
        *,
        model: str | None,
        sampling: Overrides,
    ) -> Process:
        """Start a process that has made the first `at` calls of another one; E_ARG says why not."""
        ...

    async def replay(self, pid: int) -> ReplayReport:
        """Run an app again, answered from its process's journal alone."""
        ...

    def signal(self, process: Process, name: SignalName, *, sender: str | None = None) -> None:
        """Deliver a signal; a process that it ends was ended by `sender`, or by the signal."""
        ...

    def cut_off(self, process: Process) -> None:
        """End a process's OS process; the process itself goes on, or begins anew."""
        ...

    async def deliver(
        self, pid: int, name: SignalName, *, tenant: str | None = None, sender: str | None = None
    ) -> bool:
        """Deliver a signal to a process that lives, sleeps or was left behind.

        False if the tenant (None: any) has none of this number, or it has ended.
        """
        ...

    async def ask_idle(self, process: Process) -> bool:
        """Whether an app says that only a reply to one of its calls can make it go on."""
        ...

    def evict(self, process: Process, waits: Sequence[Wait]) -> None:
        """Take a process its OS process; it sleeps until one of these waits is over."""
        ...

    def wake(self, pids: Iterable[int]) -> None:
        """Let processes go on that were taken out of their sleep, as soon as there is room."""
        ...

    async def wake_if_asleep(self, pid: int) -> None:
        """Let a process go on for which something has come that no row tells of: an answer."""
        ...

    def recover(self) -> None:
        """Let go on what the kernel before this one left behind, and wake whoever is due."""
        ...

    def os_pid(self, pid: int) -> int | None:
        """The OS process that a live process runs as, once it does."""
        ...

    @property
    def has_room(self) -> bool:
        """Whether one process more may be woken."""
        ...


@dataclass
class Machine:
    """What runs. One per kernel; shared by everything in it."""

    config: Config
    clock: Clock
    db: Database
    memory: MemoryManager
    journal: Journal
    models: Models
    tools: Registry
    table: ProcessTable
    degraded: DegradedMode
    chunks: Chunks
    started_at: float
    tasks: TaskGroup
    launcher: Launcher = field(init=False)
    stopping: anyio.Event = field(default_factory=anyio.Event)
    attending: dict[anyio.Event, End] = field(default_factory=dict)  # set when a terminal is done

    def prepare_model(self, name: str | None) -> None:
        """Begin to load a model, so that it is there when the first process asks for it."""
        self.tasks.start_soon(self._load, name or self.config.model)

    async def _load(self, name: str) -> None:
        with suppress(SyscallError):  # whoever needs the model hears the error
            await self.models.load(name)

    async def wait_idle(self) -> None:
        """Wait until nothing runs here on behalf of a terminal, and each has heard of its end.

        What this kernel has brought back by itself goes on in the next one.
        """
        while self._is_busy():
            await self.table.wait_changed()
        with anyio.move_on_after(LAST_WORDS_SECONDS):
            for done in tuple(self.attending):
                await done.wait()

    def _is_busy(self) -> bool:
        """Whether there is a process to wait for; one that sleeps, only if a person attends it."""
        if any(not end.told.is_set() for end in self.attending.values()):
            return True
        return any(not one.is_brought_back or one.killed_by is not None for one in self.table)
