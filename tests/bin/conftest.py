"""What the tests of programs use: a scripted kernel in memory, and llmos as a program."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec
import platformdirs
import pytest
from anyio.abc import UNIXSocketStream

from llmos.bin.connection import Connection
from llmos.kernel.protocol import FromTerminal, ToTerminal
from llmos.syscalls.wire import FrameStream, decode

SOURCE = Path(__file__).parents[2] / "src"
_requests = msgspec.msgpack.Decoder(FromTerminal)


class ScriptedKernel:
    """The kernel's end of a terminal's connection: tests say what it says."""

    def __init__(self, stream: UNIXSocketStream) -> None:
        self._stream = FrameStream(stream)

    async def hear(self) -> FromTerminal:
        """What the terminal says next."""
        message: FromTerminal = decode(await self._stream.receive(), _requests)
        return message

    async def say(self, *events: ToTerminal) -> None:
        """Send events to the terminal."""
        for event in events:
            await self._stream.send(event)

    async def aclose(self) -> None:
        """Go away."""
        await self._stream.aclose()


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Connection, ScriptedKernel]]:
    """A client's connection and the kernel at its other end."""
    streams = [await UNIXSocketStream.from_socket(end) for end in socket.socketpair()]
    connection, kernel = Connection(streams[0]), ScriptedKernel(streams[1])
    try:
        with anyio.fail_after(10):
            yield connection, kernel
    finally:
        await connection.aclose()
        await kernel.aclose()


class Llmos:
    """The program, on a state directory and in a working folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.work = folder / "work"
        self.home = folder / "home"
        self.work.mkdir()
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LLMOS_HOME": str(self.home),
            "XDG_CACHE_HOME": str(platformdirs.user_cache_path()),  # compiled kernels are there
            "PYTHONPATH": str(SOURCE),
        }

    def start(self, *words: str, module: str = "cli") -> "subprocess.Popen[str]":
        """Start it with pipes for all three streams, in a session of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", f"llmos.bin.{module}", *words],
            cwd=self.work,
            env=self.environ,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def run(
        self, *words: str, typed: str = "", module: str = "cli"
    ) -> "subprocess.CompletedProcess[str]":
        """Run it to its end with these lines on stdin."""
        with self.start(*words, module=module) as process:
            out, err = process.communicate(typed, timeout=60)
        return subprocess.CompletedProcess(words, process.returncode, out, err)


@pytest.fixture(autouse=True, scope="session")
def hear_ctrl_c() -> None:
    """A shell has its background jobs ignore Ctrl-C, and what they start would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def llmos(tmp_path: Path) -> Llmos:
    return Llmos(tmp_path)
