"""An app's log: what it writes to stdout and stderr past the syscalls, prints and tracebacks.

It is no output: it is not journaled, and a replay writes it again. It goes to the person at the
terminal and to a file, of which only the first MAX_LOG_BYTES are kept, whatever the app writes.
"""

from pathlib import Path

import anyio

from llmos.syscalls.stream import SocketStream

from .protocol import Logged
from .terminal import Terminal

MAX_LOG_BYTES = 1 << 20
MAX_TAIL_CHARS = 4096


class AppLog:
    """One process's log. `relay` runs while the process does."""

    def __init__(self, pid: int, path: Path, terminal: Terminal) -> None:
        self._pid = pid
        self.path = path
        self._terminal = terminal
        self._tail = ""
        self._num_bytes = path.stat().st_size if path.exists() else 0

    async def relay(self, stream: SocketStream) -> None:
        """Pass on what arrives until nobody holds the other end."""
        async with await anyio.open_file(self.path, "ab") as file:
            while True:
                try:
                    data = await stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    return
                if self._num_bytes < MAX_LOG_BYTES:
                    self._num_bytes += len(data)
                    await file.write(data)
                    await file.flush()
                text = data.decode(errors="replace")
                self._tail = (self._tail + text)[-MAX_TAIL_CHARS:]
                self._terminal.emit(Logged(self._pid, text))

    def last_words(self) -> str:
        """The last line that was written: where there is a traceback, it says why."""
        lines = self._tail.strip().splitlines()
        return lines[-1].strip() if lines else ""
