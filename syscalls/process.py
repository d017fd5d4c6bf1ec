"""Calls about processes: `getpid`, `spawn`, `wait`, `signal`, `ps`, `checkpoint`."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from .types import Path, Pid, Usage

MAX_ARGUMENTS = 256
SignalName = Literal["TERM", "KILL", "STOP", "CONT"]
State = Literal["NEW", "READY", "RUNNING", "WAITING", "STOPPED", "EVICTED", "ZOMBIE", "DAMAGED"]
ExitStatus = Literal["exited", "failed", "killed"]
WaitKind = Literal["timer", "child", "message", "person", "restart"]
Argument = Annotated[str, Meta(max_length=65_536)]


class GetPid(msgspec.Struct, frozen=True):
    """The null call: who am I."""


class PidReply(msgspec.Struct, frozen=True):
    """A process's number."""

    pid: int


class Spawn(msgspec.Struct, frozen=True):
    """Start an app as a child."""

    app: Path
    argv: Annotated[tuple[Argument, ...], Meta(max_length=MAX_ARGUMENTS)] = ()
    model: Path | None = None


class Wait(msgspec.Struct, frozen=True):
    """Wait until a child has ended. With `foreground` it has the terminal meanwhile."""

    pid: Pid
    foreground: bool = False


class ProcessExit(msgspec.Struct, frozen=True):
    """How a process ended, with its exit code.

    `result` is what its main returned, as text; `error` says why it failed; `printed` tells whether
    it wrote any output.
    """

    pid: int
    status: ExitStatus
    code: int
    result: str = ""
    error: str = ""
    printed: bool = False


class Signal(msgspec.Struct, frozen=True):
    """Send a signal to a process."""

    pid: Pid
    name: SignalName = "TERM"


class Signalled(msgspec.Struct, frozen=True):
    """Whether the process was alive to get it."""

    delivered: bool


class Ps(msgspec.Struct, frozen=True):
    """List processes, newest last."""

    limit: Annotated[int, Meta(ge=1, le=10_000)] = 100


class Waiting(msgspec.Struct, frozen=True):
    """What a process sleeps for: until `due_at` in Unix seconds, for the child `pid`, for mail."""

    kind: WaitKind
    due_at: float | None = None
    pid: int | None = None


class ProcessInfo(msgspec.Struct, frozen=True):
    """A process as `ps` shows it. Times are Unix seconds; tokens are its totals so far.

    `waits` are of one that sleeps; `left_because` says why one that was left cannot go on.
    """

    pid: int
    parent: int | None
    app: str
    argv: tuple[str, ...]
    state: State
    model: str
    started_at: float
    ended_at: float | None
    exit_status: ExitStatus | None
    exit_code: int | None
    prompt_tokens: int
    completion_tokens: int
    waits: tuple[Waiting, ...] = ()
    left_because: str = ""


class ProcessList(msgspec.Struct, frozen=True):
    """The processes that the caller may see."""

    processes: tuple[ProcessInfo, ...]


class Checkpoint(msgspec.Struct, frozen=True):
    """Begin anew, with these arguments and an empty journal. There is no reply."""

    argv: Annotated[tuple[Argument, ...], Meta(max_length=MAX_ARGUMENTS)] = ()


class Checkpointed(msgspec.Struct, frozen=True):
    """What the journal begins with after a checkpoint: the arguments, and the usage so far.

    `num_chars` had been written by then, by calls that the journal does not have any more.
    """

    argv: tuple[str, ...]
    usage: Usage
    num_chars: int = 0
