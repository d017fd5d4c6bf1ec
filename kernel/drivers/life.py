"""One life of an executor process: started, fed, watched, ended.

The process says something at least once a second while it works, between steps. One that has work
and is silent for longer than a step may take hangs, and is killed.
"""

import asyncio
import os
import socket
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import anyio
import msgspec

import llmos
from llmos.syscalls.errors import E_MODEL, SyscallError, raise_reply

from ..executor.protocol import (
    FrameDecoder,
    FromExecutor,
    FromKernel,
    Load,
    Loaded,
    LoadFailed,
    Output,
    encode_frame,
)
from ..stats import StatsReply, TraceReply

_READ_BYTES = 1 << 16
_LOAD_BYTES_PER_SECOND = 20_000_000
_STEP_PARAMETERS_PER_SECOND = 100_000_000
_TICKS = 8
_LAST_SECONDS = 5.0  # of a process that has closed its socket
Answer = asyncio.Future[StatsReply | TraceReply | None]


class Limits(msgspec.Struct, frozen=True):
    """How long an executor may be silent: these seconds, and more for a larger model.

    Loading gets a second more for every 20 MB of weights; where they may have to be fetched first
    it has no limit. A step (at most a chunk of prefill, however long the prompt) gets a second more
    for every 100 million parameters, which is what the slowest machine needs that is of any use.
    """

    load_seconds: float = 300.0
    step_seconds: float = 60.0

    def count_load_seconds(self, model: str) -> float | None:
        """The limit of a load; None is none."""
        folder = Path(model).expanduser()
        if not folder.is_dir():
            return None
        size_bytes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        return self.load_seconds + size_bytes / _LOAD_BYTES_PER_SECOND

    def count_step_seconds(self, loaded: Loaded) -> float:
        """The limit of a step."""
        return self.step_seconds + loaded.num_parameters / _STEP_PARAMETERS_PER_SECOND


LIMITS = Limits()


class Life:
    """A process with a loaded model. The driver says in `has_work` whether it should be busy."""

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
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._num_silent_ticks = 0
        self._questions: deque[Answer] = deque()
        self._fault = ""
        self.has_work = False
        self.is_dead = False

    @classmethod
    async def start(cls, load: Load, log: Path, limits: Limits) -> "Life":
        """Start a process and load the model. Raises E_MODEL, with the process ended."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await _spawn(theirs, log)
            except OSError as error:
                ours.close()
                raise E_MODEL(f"the executor cannot be started: {error}") from None
        life = cls(process, *await asyncio.open_unix_connection(sock=ours))
        seconds = limits.count_load_seconds(load.model)
        loaded = None
        try:
            async with asyncio.timeout(seconds):
                life.loaded = loaded = await life._wait_loaded(load, log)
        except TimeoutError:
            raise E_MODEL(f"{load.model} did not load within {seconds:g} s; see {log}") from None
        finally:
            if loaded is None:
                await life.aclose()
        return life

    async def _wait_loaded(self, load: Load, log: Path) -> Loaded:
        self.send(load)
        with suppress(ConnectionError, msgspec.MsgspecError):
            while data := await self._reader.read(_READ_BYTES):
                for message in self._frames.feed(data):
                    if isinstance(message, LoadFailed):
                        raise_reply(message.error)
                    if isinstance(message, Loaded):
                        return message
        await self._bury()
        raise E_MODEL(f"the executor died while loading ({self.obituary}); see {log}")

    def attend(
        self, step_seconds: float, take: Callable[[Output], None], died: Callable[[], None]
    ) -> None:
        """Call `take` with each output as it comes, and `died` once, when the process is gone."""
        watching = asyncio.create_task(self._watch(step_seconds))
        delivering = asyncio.create_task(self._deliver(take))

        def end(task: asyncio.Task[None]) -> None:
            watching.cancel()
            if not task.cancelled():
                died()

        delivering.add_done_callback(end)
        self._tasks = (delivering, watching)

    async def _deliver(self, take: Callable[[Output], None]) -> None:
        try:
            while data := await self._reader.read(_READ_BYTES):
                self._num_silent_ticks = 0
                for message in self._frames.feed(data):
                    if isinstance(message, Output):
                        take(message)
                    elif isinstance(message, StatsReply | TraceReply):
                        _settle(self._questions.popleft(), message)
        except ConnectionError:
            pass
        except (SyscallError, msgspec.MsgspecError) as error:
            self._fault = f"it spoke no frames: {error}"
        await self._bury()

    async def _watch(self, seconds: float) -> None:
        """Kill a process that has work and is silent for so long.

        Silence is counted in ticks of our own clockwork: a kernel that was itself stopped for a
        while has counted none of it.
        """
        while True:
            await asyncio.sleep(seconds / _TICKS)
            self._num_silent_ticks = self._num_silent_ticks + 1 if self.has_work else 0
            if self._num_silent_ticks > _TICKS and self._process.returncode is None:
                self._fault = f"no step for {seconds:.0f} s"
                self._process.kill()

    async def _bury(self) -> None:
        """The socket is closed: see the process out."""
        self.is_dead = True
        self._leave_unanswered()
        self._writer.close()
        try:
            await asyncio.wait_for(self._process.wait(), 0 if self._fault else _LAST_SECONDS)
        except TimeoutError:
            if self._process.returncode is None:
                self._process.kill()
            await self._process.wait()

    @property
    def process_id(self) -> int:
        """The operating system's number of the process."""
        return self._process.pid

    @property
    def obituary(self) -> str:
        """How the process ended."""
        code = self._process.returncode
        way = f"signal {-code}" if code is not None and code < 0 else f"exit {code}"
        return self._fault or way

    def send(self, message: FromKernel) -> None:
        """Queue a message; never waits, and is lost on the dead."""
        if not self.is_dead:
            self._writer.write(encode_frame(message))

    def ask(self, message: FromKernel) -> Answer:
        """Send a message that is answered, in order; the answer is None if the process ends."""
        answer: Answer = asyncio.get_running_loop().create_future()
        self._questions.append(answer)
        self.send(message)
        if self.is_dead:
            self._leave_unanswered()
        return answer

    def _leave_unanswered(self) -> None:
        while self._questions:
            _settle(self._questions.popleft(), None)

    async def leave(self, seconds: float) -> None:
        """Let the process, which is idle, put away what it wants to keep, and end."""
        with suppress(TimeoutError, OSError):
            self._writer.write_eof()
            await asyncio.wait_for(self._process.wait(), seconds)
        await self.aclose()

    async def aclose(self) -> None:
        """End the process now; it holds nothing that must be saved."""
        if self._process.returncode is None:
            self._process.kill()
        with anyio.CancelScope(shield=True):
            await self._process.wait()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self.is_dead = True
        self._leave_unanswered()
        self._writer.close()


def _settle(answer: Answer, reply: StatsReply | TraceReply | None) -> None:
    """Who asked may have been cancelled meanwhile."""
    if not answer.done():
        answer.set_result(reply)


def make_environment() -> dict[str, str]:
    """The variables with which another Python finds this llmos."""
    home = str(Path(llmos.__file__).parent.parent)
    path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}


async def _spawn(connection: socket.socket, log: Path) -> asyncio.subprocess.Process:
    """Start a worker with its end of the socket, its output in the log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    fd = connection.fileno()
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "llmos.kernel.executor.worker", "--fd", str(fd)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(fd,),
            env=make_environment(),
            start_new_session=True,
        )
