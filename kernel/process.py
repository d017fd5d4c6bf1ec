"""The process: its control block and the table of live ones.

Who may write what: fields under "identity" are fixed at start, but for the arguments and the salt,
which a checkpoint changes; the launcher writes the life cycle; the dispatcher writes calls and
usage. Everything durable about a process is in the store; this is what only a live one has.
"""

import asyncio
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from weakref import WeakValueDictionary

import anyio
import msgspec

from llmos.memory.journal import JournalRow, row_bytes
from llmos.memory.waits import Wait
from llmos.syscalls.errors import ErrorReply
from llmos.syscalls.process import ProcessExit, ProcessInfo, State
from llmos.syscalls.wire import Request

from .capability import Capabilities
from .manifest import Manifest
from .sampling import Overrides
from .terminal import NOBODY, Terminal
from .workspace import Workspace

MAX_CALLS_IN_FLIGHT = 256
KEY_BYTES = 16
TENANT = "local"


class ProcessSpec(msgspec.Struct, frozen=True):
    """What is needed to start a process again; stored with its record.

    `salt` makes the process's random draws its own and the same after a restart. `sampling` are
    fields that stand in for those of every generation from here on.
    """

    app: str
    argv: tuple[str, ...]
    workspace: str
    readable: tuple[str, ...]
    model: str
    salt: str
    capabilities: Capabilities
    sampling: Overrides = {}


@dataclass(slots=True, eq=False)
class CallInFlight:
    """A call that has no reply yet."""

    request: Request
    scope: anyio.CancelScope
    is_abandoned: bool = False

    def cancel(self) -> None:
        """The process has to end."""
        self.scope.cancel()

    def abandon(self) -> None:
        """The app no longer waits for it; nothing new for a call that was cancelled before."""
        self.is_abandoned = self.is_abandoned or not self.scope.cancel_called
        self.scope.cancel()


class Reach(NamedTuple):
    """How far a strand's journal goes: numbers up to this one, and children up to this one."""

    num_calls: int
    num_children: int


class End:
    """How a process ended, for whoever waits for it; `error` alone: it could not go on.

    It is told by pid, since a process that sleeps has no control block.
    """

    def __init__(self) -> None:
        self.told = anyio.Event()
        self.exit: ProcessExit | None = None
        self.error: ErrorReply | None = None


class Process:
    """A process's control block."""

    def __init__(
        self, pid: int, parent: int | None, manifest: Manifest, spec: ProcessSpec, started_at: float
    ) -> None:
        # identity
        self.pid = pid
        self.root = pid  # the first of its ancestors
        self.parent = parent
        self.manifest = manifest
        self.spec = spec
        self.capabilities = spec.capabilities
        self.workspace = Workspace(Path(spec.workspace), tuple(map(Path, spec.readable)))
        self.model = spec.model
        self.tenant = TENANT
        self.started_at = started_at
        self.code_hash = ""  # of the app's code, by the launcher
        # life cycle
        self.state: State = "NEW"
        self.terminal: Terminal = NOBODY
        self.killed_by: str | None = None
        self.has_left = False  # its stream of calls has ended
        self.is_brought_back = False  # it goes on by itself, not for a terminal of this kernel
        self.leaving: tuple[Wait, ...] | None = None  # it gives up its OS process to wait for these
        self.idle_told: asyncio.Future[bool] | None = None  # the app was asked whether it is idle
        self.is_wanted = False  # something it waits for has come meanwhile
        self.end = End()
        self.greeted = anyio.Event()
        # calls
        self.journaled: dict[tuple[str, int], JournalRow] = {}
        self.next_seq: dict[str, int] = {}  # of each strand that may go on
        self.num_joined: dict[str, int] = {}  # of a strand: as many of its children have ended
        self.reach: dict[str, Reach] | None = None  # of what is to be replayed, by strand
        self.in_flight: dict[tuple[str, int], CallInFlight] = {}
        self.num_generating = 0
        self.num_reserved_tokens = 0  # what the running generations may still make
        self.mail_arrived = anyio.Event()
        self.letters: dict[int, tuple[str, int]] = {}  # that a call is about to take
        self.num_journal_rows = 0
        self.num_journal_bytes = 0
        self.next_argv: tuple[str, ...] | None = None  # a checkpoint is under way to these
        # usage
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.num_printed_chars = 0

    @property
    def exit(self) -> ProcessExit | None:
        """How it ended; None while it has not."""
        return self.end.exit

    @exit.setter
    def exit(self, exit: ProcessExit | None) -> None:
        self.end.exit = exit

    @property
    def error(self) -> ErrorReply | None:
        """Why it failed, or could not go on."""
        return self.end.error

    @error.setter
    def error(self, error: ErrorReply | None) -> None:
        self.end.error = error

    @property
    def ended(self) -> anyio.Event:
        """Set when it has ended, or could not go on."""
        return self.end.told

    def tell_idle(self, is_idle: bool) -> None:
        """The app says whether anything but a reply can make it go on."""
        if self.idle_told is not None and not self.idle_told.done():
            self.idle_told.set_result(is_idle)

    def notify_mail(self) -> None:
        """A message has come: let every call that waits for one look."""
        self.mail_arrived.set()
        self.mail_arrived = anyio.Event()

    def begin_again(
        self, rows: Iterable[JournalRow], num_tokens: tuple[int, int], num_printed_chars: int
    ) -> None:
        """Forget an OS process that is gone; what was called is to be replayed to the next one.

        `num_tokens` are those of the prompts and of the completions that `rows` hold.
        """
        self.state = "STOPPED" if self.state == "STOPPED" else "NEW"
        self.greeted = anyio.Event()
        self.has_left = False
        self.leaving = None
        self.is_wanted = False
        self.journaled = {(row.strand, row.seq): row for row in rows}
        self.reach = None
        self.num_journal_rows = len(self.journaled)
        self.num_journal_bytes = sum(map(row_bytes, self.journaled.values()))
        self.next_argv = None
        self.next_seq.clear()
        self.num_joined.clear()
        self.in_flight.clear()
        self.prompt_tokens, self.completion_tokens = num_tokens
        self.num_printed_chars = num_printed_chars

    def seed(self, strand: str, seq: int) -> int:
        """The seed of a call that names none: the same after a restart, unlike any other call's."""
        name = f"{self.spec.salt}/{self.pid}/{strand}/{seq}".encode()
        return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") >> 1

    def call_key(self, strand: str, seq: int) -> str:
        """The idempotency key of a call: the same after a restart, unlike any other call's."""
        name = f"{self.spec.salt}/{self.pid}/{strand}/{seq}".encode()
        return hashlib.blake2b(name, digest_size=KEY_BYTES, person=b"tool").hexdigest()

    def info(self) -> ProcessInfo:
        """This process as `ps` shows it."""
        return ProcessInfo(
            self.pid,
            self.parent,
            self.manifest.name,
            self.spec.argv,
            self.visible_state(),
            self.model,
            self.started_at,
            None,
            None,
            None,
            self.prompt_tokens,
            self.completion_tokens,
        )

    def visible_state(self) -> State:
        """RUNNING while a generation runs, WAITING while only other calls do."""
        if self.state != "READY":
            return self.state
        if self.num_generating:
            return "RUNNING"
        return "WAITING" if self.in_flight else "READY"


class ProcessTable:
    """The live processes by pid, and what is shared by who lives and who sleeps.

    `terminals` are those of families, by the first ancestor's pid, as long as anybody has them.
    """

    def __init__(self) -> None:
        self._by_pid: dict[int, Process] = {}
        self._ends: WeakValueDictionary[int, End] = WeakValueDictionary()
        self.terminals: WeakValueDictionary[int, Terminal] = WeakValueDictionary()
        self._changed = anyio.Event()

    def add(self, process: Process) -> None:
        """A process comes to life."""
        process.end = self._ends.setdefault(process.pid, process.end)
        self._by_pid[process.pid] = process

    def remove(self, process: Process) -> None:
        """A process lives no longer."""
        del self._by_pid[process.pid]
        self._tell_changed()

    def end_of(self, pid: int) -> End:
        """Where the end of a process that has not ended will be told."""
        return self._ends.setdefault(pid, End())

    def tell_end(self, pid: int, exit: ProcessExit | None, error: ErrorReply | None) -> None:
        """Tell who waits how a process ended, or why it could not go on."""
        end = self._ends.pop(pid, None)
        if end is not None:
            end.exit, end.error = exit, error
            end.told.set()
        self._tell_changed()

    def _tell_changed(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def get(self, pid: int) -> Process | None:
        """The live process of this pid, if there is one."""
        return self._by_pid.get(pid)

    def children(self, pid: int) -> list[Process]:
        """The live children of a process."""
        return [process for process in self._by_pid.values() if process.parent == pid]

    def find_root(self, process: Process) -> int:
        """The first of a process's ancestors that is known; itself if it has none."""
        root, parent = process.pid, process.parent
        while parent is not None:
            root = parent
            live = self._by_pid.get(parent)
            parent = live.parent if live is not None else None
        return root

    async def wait_changed(self) -> None:
        """Wait until a process lives no longer, or has ended in its sleep."""
        await self._changed.wait()

    def __iter__(self) -> Iterator[Process]:
        return iter(list(self._by_pid.values()))

    def __len__(self) -> int:
        return len(self._by_pid)
