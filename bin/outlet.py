"""What goes to stdout and stderr: a reader who pauses stalls whoever writes, and nobody else.

The kernel may run in this very process, so threads write. Text waits in a bounded buffer: whoever
produces it waits for room, and through the control socket so does the app that writes it. Both
streams share one queue, so that they keep their order on a terminal.
"""

import os
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import anyio

from llmos.syscalls.tasks import running

from .threads import call_in_thread

MAX_WAITING_CHARS = 1 << 18
MAX_WRITE_CHARS = 1 << 16
LAST_WORDS_SECONDS = 0.5


class Outlet:
    """Text on its way out. `run` writes it; a reader that has left ends it with BrokenPipeError."""

    def __init__(self) -> None:
        self._streams = (sys.stdout, sys.stderr)
        self._are_terminals = tuple(stream.isatty() for stream in self._streams)
        self._waiting: deque[tuple[int, str]] = deque()
        self.num_waiting_chars = 0
        self._arrived = anyio.Event()
        self._written = anyio.Event()
        self._is_hurried = False

    def put(self, text: str, *, is_error: bool = False) -> None:
        """Write text after all that came before, to stdout or to stderr.

        Where a prompt stands on the terminal it goes to that, which shows it above itself.
        """
        now = (sys.stdout, sys.stderr)[is_error]
        if now is not self._streams[is_error] and self._are_terminals[is_error]:
            now.write(text)
            now.flush()
        elif not (self._is_hurried and self.num_waiting_chars > MAX_WAITING_CHARS):
            self._waiting.append((is_error, text))
            self.num_waiting_chars += len(text)
            self._arrived.set()

    async def run(self) -> None:
        """Write what arrives, for as long as this is not cancelled."""
        while True:
            while not self._waiting:
                self._arrived = anyio.Event()
                await self._arrived.wait()
            index, text = self._take()
            stream = self._streams[index]
            data = text.encode(stream.encoding, "replace")
            await call_in_thread(partial(write_all, stream.fileno(), data))
            self.num_waiting_chars -= len(text)
            self._wake()

    def _take(self) -> tuple[int, str]:
        """The next texts for one stream, as one."""
        index, text = self._waiting.popleft()
        parts, num_chars = [text], len(text)
        while self._waiting and self._waiting[0][0] == index and num_chars < MAX_WRITE_CHARS:
            parts.append(self._waiting.popleft()[1])
            num_chars += len(parts[-1])
        return index, "".join(parts)

    async def wait_for_room(self) -> None:
        """Wait until most of what there is has been written."""
        while self.num_waiting_chars > MAX_WAITING_CHARS and not self._is_hurried:
            await self._written.wait()

    async def flush(self) -> None:
        """Wait until all is written; when hurried, only for a moment."""
        while self.num_waiting_chars and not self._is_hurried:
            await self._written.wait()
        with anyio.move_on_after(LAST_WORDS_SECONDS):
            while self.num_waiting_chars:
                await self._written.wait()

    def hurry(self, hurried: bool = True) -> None:
        """The person wants it to end: nobody waits for a reader who pauses any more."""
        self._is_hurried = hurried
        self._wake()

    def _wake(self) -> None:
        """Let everybody look again who waits for room."""
        self._written.set()
        self._written = anyio.Event()


@asynccontextmanager
async def open_outlet() -> AsyncIterator[Outlet]:
    """An outlet that is written while the context lasts, and to its end when that ends well."""
    outlet = Outlet()
    async with running() as tasks:
        tasks.start_soon(outlet.run)
        yield outlet
        await outlet.flush()


def write_all(descriptor: int, data: bytes) -> None:
    """Write all bytes, however long it takes."""
    rest = memoryview(data)
    while rest:
        with suppress(InterruptedError):
            rest = rest[os.write(descriptor, rest) :]
