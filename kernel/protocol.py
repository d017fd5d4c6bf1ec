"""The control protocol: what a terminal says to the kernel and what it hears.

Frames of llmos.syscalls.wire over the kernel's Unix socket. A connection is a terminal: it makes
one request; a Run is followed by events until Ended or Refused, everything else by one answer.
Both ends are the same user's, so a frame may be larger than an app's: an event holds what an app
sent and more. What may be long, a log, comes in pieces.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from llmos.syscalls.errors import ErrorReply
from llmos.syscalls.process import (
    MAX_ARGUMENTS,
    Argument,
    ProcessExit,
    ProcessInfo,
    ProcessList,
    Signalled,
    SignalName,
    State,
)
from llmos.syscalls.types import Message, Path, Pid, Text

from .devices import Holding
from .sampling import Overrides
from .stats import StatsReply, TraceReply

MAX_CONTROL_FRAME_BYTES = 64 << 20
MAX_TRACE_SECONDS = 600
Step = Annotated[int, Meta(ge=0, le=2**53)]  # so many calls of a process


class Run(msgspec.Struct, frozen=True, tag="run"):
    """Start an app; with `detach` the terminal gets Started and leaves.

    `workspace` is an absolute folder. `readable` are absolute paths of files that the person named
    on the command line: the process may read these wherever they are.
    """

    app: Path
    argv: Annotated[tuple[Argument, ...], Meta(max_length=MAX_ARGUMENTS)]
    workspace: Path
    readable: Annotated[tuple[Path, ...], Meta(max_length=MAX_ARGUMENTS)] = ()
    model: Path | None = None
    detach: bool = False


class Resume(msgspec.Struct, frozen=True, tag="resume"):
    """Let a process whose kernel died go on; the terminal becomes its terminal."""

    pid: Pid


class Fork(msgspec.Struct, frozen=True, tag="fork"):
    """Start a process that has made the first `at` calls of another one; then as for a Run.

    `model` and the fields of `sampling` stand in for those of its generations from there on.
    """

    pid: Pid
    at: Step
    model: Path | None = None
    sampling: Overrides = {}
    detach: bool = False


class Input(msgspec.Struct, frozen=True, tag="input"):
    """The answer to Asked; None is the end of input."""

    ask: int
    text: Text | None


class Interrupt(msgspec.Struct, frozen=True, tag="interrupt"):
    """Ctrl-C: TERM to the terminal's foreground process."""


class ListProcesses(msgspec.Struct, frozen=True, tag="ps"):
    """Answered by a ProcessListing, newest last."""

    limit: Annotated[int, Meta(ge=1, le=10_000)] = 100


class ReadLog(msgspec.Struct, frozen=True, tag="log"):
    """Answered by LogPieces: first all output, then all calls, at last one with `is_last`."""

    pid: Pid


class Replay(msgspec.Struct, frozen=True, tag="replay"):
    """Run a process's app again, answered from its journal alone; answered by a ReplayReport."""

    pid: Pid


class Inspect(msgspec.Struct, frozen=True, tag="inspect"):
    """Answered by an Inspection of the process after its first `at` calls, then by its parts."""

    pid: Pid
    at: Step | None = None


class ReadTrace(msgspec.Struct, frozen=True, tag="trace"):
    """Answered by TracePieces of the process and of all that it has spawned; the last is empty."""

    pid: Pid


class Kill(msgspec.Struct, frozen=True, tag="kill"):
    """Answered by a KillReply. TERM and KILL end a process that is EVICTED too."""

    pid: Pid
    name: SignalName = "TERM"


class ReadStatus(msgspec.Struct, frozen=True, tag="status"):
    """Answered by a StatusReply."""


class ReadModelStats(msgspec.Struct, frozen=True, tag="model_stats"):
    """Answered by a ModelStatsReply: of one loaded model, or of all."""

    model: Path | None = None


class TraceModel(msgspec.Struct, frozen=True, tag="model_trace"):
    """Record the steps of a loaded model from now on; answered by a TraceReply when it is over."""

    seconds: Annotated[float, Meta(gt=0, le=MAX_TRACE_SECONDS)]
    model: Path | None = None


class Shutdown(msgspec.Struct, frozen=True, tag="shutdown"):
    """Stop the kernel; answered by a StatusReply before it goes."""


class Started(msgspec.Struct, frozen=True, tag="started"):
    """The process exists."""

    pid: int


class Output(msgspec.Struct, frozen=True, tag="output"):
    """Text that a process wrote."""

    pid: int
    text: str


class Logged(msgspec.Struct, frozen=True, tag="logged"):
    """Text that an app wrote to its stdout or stderr past the syscalls."""

    pid: int
    text: str


class Asked(msgspec.Struct, frozen=True, tag="asked"):
    """A process asks the person; answer with Input of the same `ask`."""

    ask: int
    pid: int
    prompt: str
    choices: tuple[str, ...] = ()


class Withdrawn(msgspec.Struct, frozen=True, tag="withdrawn"):
    """A question of Asked needs no answer any more: its process has ended or asks another one."""

    ask: int


class ToolRan(msgspec.Struct, frozen=True, tag="tool"):
    """A tool was called and answered, or failed (`text` is then the error's message)."""

    pid: int
    name: str
    arguments: str
    text: str
    failed: bool
    seconds: float


class Notice(msgspec.Struct, frozen=True, tag="notice"):
    """Something that takes time, or that the person should know, in one line."""

    text: str


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """The process that this terminal ran has ended."""

    exit: ProcessExit
    error: ErrorReply | None


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The request failed."""

    error: ErrorReply


class LogRow(msgspec.Struct, frozen=True):
    """One journaled syscall as people see it. `number` counts from 1 in the order of beginning.

    Tokens are those of a model's call, in `num_branches` answers; `child` is the pid that a spawn
    made. `digest` is of the arguments, in hexadecimal digits.
    """

    number: int
    strand: str
    seq: int
    name: str
    state: str
    started_at: float
    ended_at: float | None
    summary: str
    digest: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    num_branches: int = 0
    child: int | None = None


class LogPiece(msgspec.Struct, frozen=True, tag="log_piece"):
    """The next part of what a process wrote, or of its syscalls in order."""

    pid: int
    output: str = ""
    rows: tuple[LogRow, ...] = ()
    is_last: bool = False


class Divergence(msgspec.Struct, frozen=True):
    """Where a replay left its journal. None stands for no call: one side had ended there.

    `step` is strand:number, None for the end; `number` is the journal's call as `llmos log` counts
    it; digests are of the arguments.
    """

    step: str | None
    number: int | None
    expected: str | None
    expected_digest: str | None
    came: str | None
    came_digest: str | None
    came_arguments: str | None
    why: str


class ReplayReport(msgspec.Struct, frozen=True, tag="replay_report"):
    """What came of a replay: `num_replayed` of the journal's `num_calls` came again as they were.

    `is_unfinished` tells that the journal has no end to compare with. `has_other_code` tells that
    the app's code is not the one that made all of the journal.
    """

    pid: int
    num_calls: int
    num_replayed: int
    is_unfinished: bool
    has_other_code: bool
    divergence: Divergence | None


class Inspection(msgspec.Struct, frozen=True, tag="inspection"):
    """A process after `at` of its `num_calls` calls; what it wrote and its contexts come after it.

    `state` is that of now after the last call, else WAITING if calls were open and READY if not.
    Calls that were `open` had begun and not ended when the next one began. `contexts` has how many
    messages each had, by its number.
    """

    pid: int
    at: int
    num_calls: int
    state: State
    app: str
    argv: tuple[str, ...]
    model: str
    prompt_tokens: int
    completion_tokens: int
    calls: dict[str, int]
    open: tuple[LogRow, ...]
    contexts: dict[int, int]


class InspectionPart(msgspec.Struct, frozen=True, tag="inspection_part"):
    """The next text of the output, or the next messages of a context."""

    output: str = ""
    context: int = 0
    messages: tuple[Message, ...] = ()
    is_last: bool = False


class TracePiece(msgspec.Struct, frozen=True, tag="trace_piece"):
    """The next calls of a process, whose first piece says what it is; the last one has neither."""

    process: ProcessInfo | None = None
    rows: tuple[LogRow, ...] = ()


class ProcessListing(msgspec.Struct, frozen=True, tag="ps_reply"):
    """Processes, newest last."""

    listing: ProcessList


class KillReply(msgspec.Struct, frozen=True, tag="kill_reply"):
    """Whether there was a process to get the signal."""

    reply: Signalled


class StatusReply(msgspec.Struct, frozen=True, tag="status_reply"):
    """The kernel's state: its OS process, live llmos processes, and models that are loaded.

    `degraded` says why the store cannot write and processes pause; None while it can. `holdings`
    are what the models have of the devices' memory.
    """

    os_pid: int
    version: str
    home: str
    started_at: float
    num_processes: int
    models: tuple[str, ...]
    degraded: str | None = None
    holdings: tuple[Holding, ...] = ()


class ModelStatsReply(msgspec.Struct, frozen=True, tag="model_stats_reply"):
    """What the executors of loaded models count, by model."""

    models: dict[str, StatsReply]


FromTerminal = (
    Run
    | Resume
    | Fork
    | Input
    | Interrupt
    | ListProcesses
    | ReadLog
    | Replay
    | Inspect
    | ReadTrace
    | Kill
    | ReadStatus
    | ReadModelStats
    | TraceModel
    | Shutdown
)
ToTerminal = (
    Started
    | Output
    | Logged
    | Asked
    | Withdrawn
    | ToolRan
    | Notice
    | Ended
    | Refused
    | LogPiece
    | ReplayReport
    | Inspection
    | InspectionPart
    | TracePiece
    | ProcessListing
    | KillReply
    | StatusReply
    | ModelStatsReply
    | TraceReply
)
