"""Kernels in this process, on a store that can be cut off, and a driver that outlives them all.

A store that is cut off takes nothing more, as if its kernel had been killed: what was queued before
is durable, what came after never was.
"""

import socket
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
import msgspec

from llmos.kernel.clock import SystemClock
from llmos.kernel.config import Config
from llmos.kernel.drivers.driver import Generated, GenerationJob, TextDelta
from llmos.kernel.drivers.local import LocalDriver
from llmos.kernel.gates.app import serve_app
from llmos.kernel.machine import Machine
from llmos.kernel.main import assemble
from llmos.kernel.process import Process
from llmos.kernel.protocol import Output
from llmos.kernel.replay import count_tokens
from llmos.kernel.terminal import Terminal
from llmos.memory.db import Connection, Database, Operation
from llmos.memory.journal import load, read_output
from llmos.syscalls.errors import E_STORAGE, ErrorReply
from llmos.syscalls.generate import Generate, Generation
from llmos.syscalls.stream import BytesOnlyStream
from llmos.syscalls.tasks import running
from llmos.syscalls.wire import (
    PROTOCOL_VERSION,
    Chunk,
    Failure,
    FrameStream,
    FromKernel,
    Hello,
    Reply,
    Request,
    encode,
)
from tests.kernel.conftest import TOKEN

T = TypeVar("T")
Place = tuple[int, int]  # pid and seed: a branch
_decoder = msgspec.msgpack.Decoder(FromKernel)


class CutStore(Database):
    """A store that can be cut off."""

    is_cut = False

    async def write(
        self, operation: Callable[[Connection], T], *, owner: int | None = None, keep: bool = False
    ) -> T:
        """As the store does, but not after the cut."""
        if self.is_cut:
            raise E_STORAGE("the kernel was killed")
        return await super().write(operation, owner=owner, keep=keep)

    def write_nowait(self, operation: Operation, *, owner: int | None = None) -> None:
        """As the store does, but not after the cut."""
        if not self.is_cut:
            super().write_nowait(operation, owner=owner)


class WatchedDriver(LocalDriver):
    """A local driver that counts what its kernels take, and stays when they go."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.on_token: Callable[[], None] = lambda: None
        self.forget()

    def forget(self) -> None:
        """Another kernel begins."""
        self.nums_emitted: dict[Place, int] = defaultdict(int)
        self.tokens: dict[Place, list[int]] = defaultdict(list)

    async def generate(self, job: GenerationJob) -> AsyncGenerator[Generated, None]:
        """As the driver does. A delta counts when its kernel asks for the next one."""
        place = job.pid, job.sampling.seed or 0
        if job.emitted:
            self.nums_emitted[place] = len(job.emitted.tokens)
            self.tokens[place] += job.emitted.tokens
        async with aclosing(super().generate(job)) as items:
            async for item in items:
                yield item
                if isinstance(item, TextDelta):
                    self.tokens[place] += item.tokens
                    self.on_token()

    async def aclose(self) -> None:
        """A kernel goes: nothing happens."""

    async def end(self) -> None:
        """Nobody needs it any more."""
        await super().aclose()


@asynccontextmanager
async def run_kernel(config: Config, driver: WatchedDriver) -> AsyncIterator[Machine]:
    """A kernel whose model, `echo` by name, is this driver's."""
    db = CutStore.open(config.database)
    machine = assemble(config, SystemClock(), db)
    model = machine.models.get("echo")
    model.driver, model.info = driver, await driver.start()
    driver.forget()
    async with running(machine.tasks):
        machine.tasks.start_soon(machine.chunks.run)
        yield machine
    await db.aclose()


@dataclass
class Heard:
    """What an app heard of its call, and its person saw."""

    text: str = ""
    shown: str = ""
    answer: Generation | None = None
    error: ErrorReply | None = None

    @property
    def is_over(self) -> bool:
        """Whether the call has ended."""
        return self.answer is not None or self.error is not None


@asynccontextmanager
async def _open_gate(machine: Machine, process: Process) -> AsyncIterator[FrameStream]:
    """The app's end of a served socket."""
    ours, theirs = socket.socketpair()
    async with (
        aclosing(await BytesOnlyStream.adopt(ours)) as kernel_end,
        aclosing(await BytesOnlyStream.adopt(theirs)) as app_end,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(serve_app, machine, process, kernel_end, TOKEN)
        yield FrameStream(app_end)
        tasks.cancel_scope.cancel()


async def call_kernel(machine: Machine, process: Process, call: Generate, heard: Heard) -> None:
    """Make a process's only call, until it has ended or the kernel is gone."""
    process.terminal = Terminal()
    async with _open_gate(machine, process) as frames:
        await frames.send(Hello(PROTOCOL_VERSION, process.pid, TOKEN))
        await frames.receive()
        await frames.send(Request("0", 0, "generate", msgspec.Raw(encode(call))))
        try:
            while not heard.is_over:
                _take(_decoder.decode(await frames.receive()), heard)
        finally:
            heard.shown = _read_shown(process.terminal)


def _take(frame: object, heard: Heard) -> None:
    match frame:
        case Chunk():
            heard.text += frame.text
        case Reply():
            heard.answer = msgspec.msgpack.decode(frame.value, type=Generation)
        case Failure():
            heard.error = frame.error


def _read_shown(terminal: Terminal) -> str:
    events = tuple(terminal._events)
    return "".join(event.text for event in events if isinstance(event, Output))


async def come_back(machine: Machine, pid: int, like: Process) -> Process:
    """A process as a kernel finds it that comes after the death of another one."""
    process = Process(pid, None, like.manifest, like.spec, like.started_at)
    machine.table.add(process)
    rows, output = await load(machine.db, pid), await read_output(machine.db, pid)
    process.begin_again(rows, count_tokens(rows), len(output))
    return process
