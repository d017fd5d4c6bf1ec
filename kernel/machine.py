"""The machine: the parts that boot puts together, as handlers and gates see them."""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import anyio
import msgspec
from anyio.abc import TaskGroup

from llmos.memory.db import Connection, Database
from llmos.memory.manager import MemoryManager
from llmos.syscalls.errors import SyscallError
from llmos.syscalls.process import SignalName

from .clock import Clock
from .config import Config
from .degraded import DegradedMode
from .journal import Journal
from .manifest import Manifest
from .models import Models
from .process import Process, ProcessSpec, ProcessTable
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
        """Bring a process back whose kernel died; E_ARG if there is none to bring back."""
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

    async def end_evicted(self, pid: int, name: SignalName, tenant: str | None = None) -> bool:
        """End a process that no kernel runs; False if there is none."""
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
    started_at: float
    tasks: TaskGroup
    launcher: Launcher = field(init=False)
    stopping: anyio.Event = field(default_factory=anyio.Event)
    attending: set[anyio.Event] = field(default_factory=set)  # set when a terminal is done

    def prepare_model(self, name: str | None) -> None:
        """Begin to load a model, so that it is there when the first process asks for it."""
        self.tasks.start_soon(self._load, name or self.config.model)

    async def _load(self, name: str) -> None:
        with suppress(SyscallError):  # whoever needs the model hears the error
            await self.models.load(name)

    async def wait_idle(self) -> None:
        """Wait until no process lives and every terminal that reads has heard of its end."""
        await self.table.wait_empty()
        with anyio.move_on_after(LAST_WORDS_SECONDS):
            for done in tuple(self.attending):
                await done.wait()
