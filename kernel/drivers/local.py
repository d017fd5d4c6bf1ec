"""A driver that runs a transformers model in an executor process of its own.

The process is started on demand and again when it dies. What was being generated at that moment
is then generated again from its seed, once, and what was already delivered is not delivered
twice. Runs on asyncio: writes are buffered, so that ending a generation never has to wait.
"""

import asyncio
import itertools
import os
import socket
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import anyio

import llmos
from llmos.syscalls.errors import E_MODEL, raise_reply

from ..executor.protocol import (
    Cancel,
    Done,
    Failed,
    FrameDecoder,
    FromExecutor,
    FromKernel,
    Generate,
    Load,
    Loaded,
    LoadFailed,
    Output,
    Pause,
    Resume,
    Token,
    encode_frame,
)
from .driver import Finished, GenerationJob, ModelInfo, TextDelta

_MAX_ATTEMPTS = 2
_READ_BYTES = 1 << 16


class ExecutorDied(Exception):
    """The executor process ended; the message says how."""


class LocalDriver:
    """One model in one process. `log` receives what the process writes to standard error."""

    def __init__(
        self,
        model: str,
        *,
        log: Path,
        device: str = "auto",
        dtype: str = "auto",
        max_model_len: int | None = None,
    ) -> None:
        self._load = Load(model, device, dtype, max_model_len)
        self._log = log
        self._starting = asyncio.Lock()
        self._executor: Executor | None = None
        self._paused: set[int] = set()
        self._pids: dict[int, int] = {}
        self._ids = itertools.count(1)

    async def start(self) -> ModelInfo:
        """Start the process and load the model, if that has not been done. Raises E_MODEL."""
        executor = await self._get_executor()
        loaded = executor.loaded
        return ModelInfo(
            name=self._load.model,
            driver="local",
            device=loaded.device,
            dtype=loaded.dtype,
            num_parameters=loaded.num_parameters,
            max_model_len=loaded.max_model_len,
            fingerprint=loaded.fingerprint,
        )

    async def _get_executor(self) -> "Executor":
        async with self._starting:
            if self._executor is None or self._executor.is_dead:
                self._executor = await Executor.start(self._load, self._log)
            return self._executor

    @property
    def process_id(self) -> int | None:
        """The operating system's number of the process that runs now."""
        running = self._executor
        return None if running is None or running.is_dead else running.process_id

    async def generate(self, job: GenerationJob) -> AsyncGenerator[TextDelta | Finished, None]:
        """Deltas, then Finished; closing it cancels within a step. Raises typed errors."""
        delivered = ""
        for attempt in range(_MAX_ATTEMPTS):
            executor = await self._get_executor()
            received = ""
            try:
                async for event in self._run(executor, job):
                    if isinstance(event, Finished):
                        yield event
                        return
                    received += event.text
                    fresh = _skip_delivered(received, delivered)
                    delivered += fresh
                    if fresh:
                        yield TextDelta(fresh, event.num_tokens)
            except ExecutorDied as death:
                if attempt + 1 == _MAX_ATTEMPTS:
                    reason = f"the executor died twice ({death}); see {self._log}"
                    raise E_MODEL(reason, partial=delivered) from None

    async def _run(
        self, executor: "Executor", job: GenerationJob
    ) -> AsyncGenerator[TextDelta | Finished, None]:
        """One attempt. Raises ExecutorDied."""
        number = next(self._ids)
        self._pids[number] = job.pid
        request = Generate(number, job.messages, job.tools, job.sampling, job.tenant)
        outputs = executor.submit(request)
        if job.pid in self._paused:
            executor.send(Pause(number))
        try:
            while True:
                output = await outputs.get()
                match output:
                    case None:
                        raise ExecutorDied(executor.obituary)
                    case Failed():
                        raise_reply(output.error)
                    case Token():
                        yield TextDelta(output.text, output.num_tokens)
                    case Done():
                        yield _make_finished(output)
                        return
        finally:
            del self._pids[number]
            executor.forget(number)

    def pause(self, pid: int) -> None:
        """Take this process's generations out of the batch until `resume`."""
        self._paused.add(pid)
        for number in self._list_numbers(pid):
            self._send(Pause(number))

    def resume(self, pid: int) -> None:
        """Let this process's generations go on."""
        self._paused.discard(pid)
        for number in self._list_numbers(pid):
            self._send(Resume(number))

    def _list_numbers(self, pid: int) -> list[int]:
        return [number for number, owner in self._pids.items() if owner == pid]

    def _send(self, message: FromKernel) -> None:
        if self._executor and not self._executor.is_dead:
            self._executor.send(message)

    async def aclose(self) -> None:
        """End the process and with it every generation."""
        if self._executor:
            await self._executor.aclose()


class Executor:
    """One life of the process: its socket, and who waits for which generation."""

    loaded: Loaded

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._frames: FrameDecoder[FromExecutor] = FrameDecoder(FromExecutor)  # type: ignore[arg-type]
        self._waiting: dict[int, asyncio.Queue[Output | None]] = {}
        self._task: asyncio.Task[None] | None = None
        self.is_dead = False

    @classmethod
    async def start(cls, load: Load, log: Path) -> "Executor":
        """Start a process and load the model. Raises E_MODEL, with the process ended."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = await _spawn(theirs, log)
        executor = cls(process, *await asyncio.open_unix_connection(sock=ours))
        try:
            executor.loaded = await executor._wait_loaded(load, log)
            executor._task = asyncio.create_task(executor._deliver())
        finally:
            if executor._task is None:
                await executor.aclose()
        return executor

    async def _wait_loaded(self, load: Load, log: Path) -> Loaded:
        self.send(load)
        while data := await self._reader.read(_READ_BYTES):
            for message in self._frames.feed(data):
                if isinstance(message, LoadFailed):
                    raise_reply(message.error)
                if isinstance(message, Loaded):
                    return message
        await self._process.wait()
        raise E_MODEL(f"the executor died while loading ({self.obituary}); see {log}")

    async def _deliver(self) -> None:
        """Hand messages to who waits for them; at the end tell everybody."""
        try:
            while data := await self._reader.read(_READ_BYTES):
                for message in self._frames.feed(data):
                    if isinstance(message, Token | Done | Failed) and message.id in self._waiting:
                        self._waiting[message.id].put_nowait(message)
        except ConnectionError:
            pass
        self.is_dead = True
        self._writer.close()
        await self._process.wait()
        for queue in self._waiting.values():
            queue.put_nowait(None)

    @property
    def process_id(self) -> int:
        """The operating system's number of the process."""
        return self._process.pid

    @property
    def obituary(self) -> str:
        """How the process ended."""
        code = self._process.returncode
        return f"signal {-code}" if code is not None and code < 0 else f"exit {code}"

    def submit(self, request: Generate) -> "asyncio.Queue[Output | None]":
        """Send a request; its outputs come in order, None if the process dies."""
        queue: asyncio.Queue[Output | None] = asyncio.Queue()
        self._waiting[request.id] = queue
        if self.is_dead:
            queue.put_nowait(None)
        else:
            self.send(request)
        return queue

    def forget(self, number: int) -> None:
        """Nobody waits for this generation any more: cancel it if it still runs."""
        del self._waiting[number]
        if not self.is_dead:
            self.send(Cancel(number))

    def send(self, message: FromKernel) -> None:
        """Queue a message; never waits."""
        self._writer.write(encode_frame(message))

    async def aclose(self) -> None:
        """End the process now; it holds nothing that must be saved."""
        if self._process.returncode is None:
            self._process.terminate()
        with anyio.CancelScope(shield=True):
            await self._process.wait()
            if self._task:
                await self._task
        self.is_dead = True
        self._writer.close()


async def _spawn(connection: socket.socket, log: Path) -> asyncio.subprocess.Process:
    """Start a worker with its end of the socket, its output in the log."""
    home = str(Path(llmos.__file__).parent.parent)
    path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    log.parent.mkdir(parents=True, exist_ok=True)
    fd = connection.fileno()
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "llmos.kernel.executor.worker", "--fd", str(fd)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(fd,),
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,
        )


def _skip_delivered(received: str, delivered: str) -> str:
    """The part of a second attempt's text that is new. Raises E_MODEL if the attempts differ."""
    if not received.startswith(delivered) and not delivered.startswith(received):
        raise E_MODEL("the executor died, and the text went another way afterwards")
    return received[len(delivered) :]


def _make_finished(done: Done) -> Finished:
    return Finished(done.text, done.tool_calls, done.finish_reason, done.usage)
