"""People at the control socket: what they ask is answered, what they break is theirs alone."""

import stat
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import anyio
import msgspec
import pytest

from llmos.kernel.config import Config
from llmos.kernel.machine import Machine
from llmos.kernel.main import boot
from llmos.kernel.protocol import (
    Ended,
    Input,
    Interrupt,
    Kill,
    KillReply,
    ListProcesses,
    LogPiece,
    ModelStatsReply,
    Output,
    ProcessListing,
    ReadLog,
    ReadModelStats,
    ReadStatus,
    Refused,
    Run,
    Shutdown,
    Started,
    StatusReply,
    ToolRan,
    ToTerminal,
    TraceModel,
)
from llmos.syscalls.wire import FrameStream, decode

pytestmark = pytest.mark.anyio
T = TypeVar("T")
_events = msgspec.msgpack.Decoder(ToTerminal)


@pytest.fixture
async def machine(config: Config) -> AsyncIterator[Machine]:
    async with boot(config) as machine:
        yield machine


class Person:
    """One connection to the control socket."""

    def __init__(self, frames: FrameStream) -> None:
        self.send = frames.send
        self._frames = frames
        self.events: list[ToTerminal] = []

    async def hear(self, kind: type[T]) -> T:
        """The next event of this kind; those before it are kept in `events`."""
        with anyio.fail_after(20):
            while True:
                event: ToTerminal = decode(await self._frames.receive(), _events)
                self.events.append(event)
                if isinstance(event, kind):
                    return event

    def output(self) -> str:
        """The text that was written so far."""
        return "".join(event.text for event in self.events if isinstance(event, Output))


@asynccontextmanager
async def connect(machine: Machine) -> AsyncIterator[Person]:
    async with await anyio.connect_unix(machine.config.socket) as stream:
        yield Person(FrameStream(stream))


def run(app: str, *argv: str, workspace: Path, detach: bool = False) -> Run:
    return Run(app, argv, str(workspace), model="echo", detach=detach)


async def test_the_socket_is_its_owners_alone(machine: Machine) -> None:
    mode = machine.config.socket.stat().st_mode

    assert stat.S_IMODE(mode) == 0o600


async def test_a_run_is_shown_from_start_to_end(machine: Machine, tmp_path: Path) -> None:
    async with connect(machine) as person:
        await person.send(run("ask", "hello", workspace=tmp_path))

        started = await person.hear(Started)
        ended = await person.hear(Ended)

    assert person.output().strip() == "hello"
    assert (ended.exit.pid, ended.exit.code, ended.exit.printed) == (started.pid, 0, True)


async def test_a_tool_that_ran_is_told(machine: Machine, tmp_path: Path) -> None:
    question = '!tool calculator {"expression": "17 * 23"}'
    async with connect(machine) as person:
        await person.send(run("ask", question, workspace=tmp_path))

        tool = await person.hear(ToolRan)
        await person.hear(Ended)

    assert (tool.name, tool.text, tool.failed) == ("calculator", "391", False)
    assert "391" in person.output()


async def test_a_question_is_answered_by_the_person(machine: Machine, tmp_path: Path) -> None:
    async with connect(machine) as person:
        await person.send(run("chat", workspace=tmp_path))
        asked = await _asked(person)
        await person.send(Input(asked, "hello from me"))
        asked = await _asked(person)
        await person.send(Input(asked, None))

        ended = await person.hear(Ended)

    assert ended.exit.code == 0
    assert "hello from me" in person.output()


async def _asked(person: Person) -> int:
    from llmos.kernel.protocol import Asked

    return (await person.hear(Asked)).ask


async def test_ctrl_c_ends_the_process_in_front(machine: Machine, tmp_path: Path) -> None:
    async with connect(machine) as person:
        await person.send(run("ask", "!slow 20 " + "word " * 1000, workspace=tmp_path))
        await person.hear(Output)
        await person.send(Interrupt())

        ended = await person.hear(Ended)

    assert (ended.exit.status, ended.exit.code) == ("killed", 7)


async def test_a_person_who_leaves_takes_the_process_along(
    machine: Machine, tmp_path: Path
) -> None:
    async with connect(machine) as person:
        await person.send(run("ask", "!slow 20 " + "word " * 1000, workspace=tmp_path))
        await person.hear(Output)

    with anyio.fail_after(20):
        await machine.wait_idle()


async def test_a_detached_process_stays(machine: Machine, tmp_path: Path) -> None:
    async with connect(machine) as person:
        await person.send(
            run("ask", "!slow 20 a b c d", workspace=tmp_path, detach=True),
        )
        started = await person.hear(Started)
    with anyio.fail_after(20):
        await machine.wait_idle()

    async with connect(machine) as person:
        await person.send(ReadLog(started.pid))
        written = await person.hear(LogPiece)
        called = await person.hear(LogPiece)
        assert (await person.hear(LogPiece)).is_last
    assert written.output.strip() == "a b c d"
    assert "generate" in {row.name for row in called.rows}


async def test_kill_and_ps_reach_a_running_process(machine: Machine, tmp_path: Path) -> None:
    async with connect(machine) as first, connect(machine) as second, connect(machine) as third:
        await first.send(run("ask", "!slow 20 " + "word " * 1000, workspace=tmp_path))
        await first.hear(Output)
        pid = (await _started(first)).pid
        await second.send(ListProcesses())
        (info,) = (await second.hear(ProcessListing)).listing.processes
        await third.send(Kill(pid, "KILL"))
        assert (await third.hear(KillReply)).reply.delivered

        ended = await first.hear(Ended)

    assert (info.pid, info.state, info.app) == (pid, "RUNNING", "ask")
    assert ended.exit.status == "killed"


async def _started(person: Person) -> Started:
    return next(event for event in person.events if isinstance(event, Started))


async def test_status_and_shutdown_tell_who_runs(machine: Machine) -> None:
    async with connect(machine) as person:
        await person.send(ReadStatus())
        status = await person.hear(StatusReply)
    async with connect(machine) as person:
        await person.send(Shutdown())
        await person.hear(StatusReply)

    assert status.num_processes == 0
    with anyio.fail_after(20):
        await machine.stopping.wait()


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (Run("sumarize", (), "/"), "app"),
        (Run("ask", (), "/no/such/folder"), "workspace"),
        (ReadLog(999), "pid"),
        (Input(1, "x"), None),
    ],
)
async def test_a_bad_request_is_refused_by_name(
    machine: Machine, request_: object, field: str | None
) -> None:
    async with connect(machine) as person:
        await person.send(request_)

        refused = await person.hear(Refused)

    assert (refused.error.code, refused.error.field) == ("E_ARG", field)


@pytest.mark.parametrize(
    "data", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\x03abc", b"GET / HTTP/1.1\r\n\r\n"]
)
async def test_garbage_is_refused_and_others_are_served(machine: Machine, data: bytes) -> None:
    async with await anyio.connect_unix(machine.config.socket) as stream:
        await stream.send(data)
        frame = decode(await FrameStream(stream).receive(), _events)
    async with connect(machine) as person:
        await person.send(ReadStatus())
        assert await person.hear(StatusReply)

    assert isinstance(frame, Refused)
    assert frame.error.code in {"E_FRAME", "E_DECODE", "E_ARG"}


async def test_a_half_sent_request_disturbs_nobody(machine: Machine) -> None:
    async with await anyio.connect_unix(machine.config.socket) as stream:
        await stream.send(struct.pack(">I", 100) + b"half")
        async with connect(machine) as person:
            await person.send(ReadStatus())
            assert await person.hear(StatusReply)


async def test_figures_are_those_of_loaded_models(machine: Machine) -> None:
    for request in (ReadModelStats(), ReadModelStats("demo"), TraceModel(0.1)):
        async with connect(machine) as person:
            await person.send(request)
            assert (await person.hear(Refused)).error.code == "E_MODEL"
    machine.models.get("echo")

    async with connect(machine) as person:
        await person.send(ReadModelStats())
        assert (await person.hear(ModelStatsReply)).models == {}
    async with connect(machine) as person:
        await person.send(TraceModel(0.1, "echo"))
        assert "without an executor" in (await person.hear(Refused)).error.message
