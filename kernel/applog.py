"""An app's log: what it writes to stdout and stderr past the syscalls, prints and tracebacks.

It is no output: it is not journaled, and a replay writes it again. It goes to the person at the
terminal and to a file, of which only the first MAX_LOG_BYTES are kept, whatever the app writes.
"""

import codecs
import logging
from pathlib import Path

import anyio

from llmos.syscalls.stream import SocketStream

from .protocol import Logged
from .terminal import Terminal

MAX_LOG_BYTES = 1 << 20
MAX_TAIL_CHARS = 4096
logger = logging.getLogger(__name__)


class AppLog:
    """One process's log. `relay` runs while the process does."""

    def __init__(self, pid: int, path: Path, terminal: Terminal) -> None:
        self._pid = pid
        self.path = path
        self._terminal = terminal
        self._tail = ""
        self._num_bytes = min(path.stat().st_size, MAX_LOG_BYTES) if path.exists() else 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    async def relay(self, stream: SocketStream) -> None:
        """Pass on what arrives until nobody holds the other end.

        A person who reads slowly slows the app down, as a pipe does.
        """
        await self._keep(b"")
        while True:
            try:
                data = await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                self._show(self._decoder.decode(b"", final=True))
                return
            await self._terminal.wait_for_room()
            self._show(self._decoder.decode(data))
            if kept := data[: MAX_LOG_BYTES - self._num_bytes]:
                await self._keep(kept)

    async def note(self, text: str) -> None:
        """Add a line of the kernel's own; it is none of the app's words."""
        line = f"llmos: {text}\n"
        self._terminal.emit(Logged(self._pid, line))
        await self._keep(line.encode())

    async def _keep(self, data: bytes) -> None:
        """Write to the file. One that cannot be written costs the log, never the process."""
        self._num_bytes += len(data)
        try:
            async with await anyio.open_file(self.path, "ab") as file:
                await file.write(data)
        except OSError as error:
            self._num_bytes = MAX_LOG_BYTES
            logger.warning("process %d is not logged: %s", self._pid, error)

    def _show(self, text: str) -> None:
        self._tail = (self._tail + text)[-MAX_TAIL_CHARS:]
        if text:
            self._terminal.emit(Logged(self._pid, text))

    def last_words(self) -> str:
        """The last line that was written: where there is a traceback, it says why."""
        lines = self._tail.strip().splitlines()
        return lines[-1].strip() if lines else ""
