"""One OS process of a process, from fork to reap: its calls are served, its words are logged."""

import asyncio
import signal
import socket
from contextlib import aclosing, suppress

import anyio

from llmos.syscalls.errors import E_LIMIT
from llmos.syscalls.runtime import EXIT_CODES, Program
from llmos.syscalls.stream import BytesOnlyStream, SocketStream
from llmos.syscalls.wire import GONE, AskIdle, Deliver, Exit, encode_frame

from .applog import AppLog
from .ending import was_cut_off
from .gates.app import serve_app
from .machine import Machine
from .process import Process
from .zygote import Zygote

LAST_WORDS_SECONDS = 1.0
IDLE_ANSWER_SECONDS = 1.0


class OsProcesses:
    """Runs processes as OS processes, and reaches those that run."""

    def __init__(self, machine: Machine, zygote: Zygote) -> None:
        self._machine = machine
        self._zygote = zygote
        self._streams: dict[int, SocketStream] = {}

    async def run(self, process: Process, token: str, log: AppLog) -> tuple[Exit | None, bool]:
        """From fork to reap: the app's last frame, and whether it was lost before that."""
        ending: Exit | None
        try:
            (call_end, app_end), (log_end, app_log_end) = _open_sockets()
        except OSError as error:
            reason = f"no sockets for the app: {error.strerror}; fix: raise the limit (ulimit -n)"
            return _refuse(E_LIMIT(reason, field="descriptors")), False
        stream = await BytesOnlyStream.adopt(call_end)
        log_stream = await SocketStream.adopt(log_end)
        async with aclosing(stream), aclosing(log_stream), anyio.create_task_group() as tasks:
            tasks.start_soon(log.relay, log_stream)
            self._streams[process.pid] = stream
            try:
                await self._zygote.fork(_program(process, token), app_end, app_log_end)
            except E_LIMIT as error:
                ending, is_lost = _refuse(error), False
                tasks.cancel_scope.cancel()
            else:
                self._deliver_early_signals(process)
                ending = await self._serve(process, stream, token)
                is_lost = await self._reap(process) is None and was_cut_off(ending)
                tasks.cancel_scope.deadline = anyio.current_time() + LAST_WORDS_SECONDS
        del self._streams[process.pid]
        return ending, is_lost

    def _deliver_early_signals(self, process: Process) -> None:
        """What was sent before there was an OS process: nothing of it has run yet."""
        if process.killed_by is not None:
            self._zygote.send_signal(process.pid, signal.SIGKILL)
        elif process.state == "STOPPED":
            self._zygote.send_signal(process.pid, signal.SIGSTOP)

    async def _serve(self, process: Process, stream: SocketStream, token: str) -> Exit | None:
        """Serve calls to the end. What a dead app has left may still hold its socket open."""

        async def close_when_dead() -> None:
            await self._zygote.wait_dead(process.pid)
            await anyio.sleep(LAST_WORDS_SECONDS)
            await stream.aclose()

        async with anyio.create_task_group() as watch:
            watch.start_soon(close_when_dead)
            ending = await serve_app(self._machine, process, stream, token)
            watch.cancel_scope.cancel()
        return ending

    async def _reap(self, process: Process) -> int | None:
        """Wait for the OS process; one that stays after it has said goodbye is killed."""
        with anyio.move_on_after(self._machine.config.kill_grace_seconds):
            return await self._zygote.wait(process.pid)
        self._zygote.send_signal(process.pid, signal.SIGKILL)
        return await self._zygote.wait(process.pid)

    async def ask_to_end(self, pid: int) -> bool:
        """Tell an app that it is to end, if it has begun; False if it is gone already."""
        stream = self._streams.get(pid)
        if stream is not None:
            try:
                await stream.send(encode_frame(Deliver("TERM")))
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return False
        return True

    async def ask_idle(self, process: Process) -> bool:
        """Whether an app says that only a reply makes it go on; one that says nothing is busy."""
        stream = self._streams.get(process.pid)
        if stream is None:
            return False
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        process.idle_told = answer
        with anyio.move_on_after(IDLE_ANSWER_SECONDS), suppress(*GONE):
            await stream.send(encode_frame(AskIdle()))
            await answer
        return answer.done() and not answer.cancelled() and answer.result()


def _program(process: Process, token: str) -> Program:
    module, function, folder = process.manifest.program()
    return Program(process.pid, token, module, function, folder, process.spec.workspace)


def _open_sockets() -> tuple[tuple[socket.socket, socket.socket], ...]:
    """A pair for the calls and a pair for the log. OSError when there is no descriptor left."""
    calls = socket.socketpair()
    try:
        return calls, socket.socketpair()
    except OSError:
        for end in calls:
            end.close()
        raise


def _refuse(error: E_LIMIT) -> Exit:
    """The ending of a process that there was no room for."""
    return Exit(EXIT_CODES[error.code], error=error.reply())
