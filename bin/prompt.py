"""Asks the person for a line: with editing and history in a terminal, else from stdin.

Lines that come from a pipe are read through the descriptor and not through sys.stdin: its lock
would be held by the waiting thread when the program leaves.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .threads import call_in_thread

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession

READ_BYTES = 65_536


class Interrupted(Exception):
    """Ctrl-C at a prompt. `typed` tells whether there was text in the line."""

    def __init__(self, typed: bool = False) -> None:
        super().__init__()
        self.typed = typed


class Pipe:
    """Lines of a file descriptor, one at a time."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = bytearray()
        self._ended = False
        self._reading: asyncio.Future[bytes] | None = None

    async def read_line(self) -> str | None:
        """The next line without its end; None at the end of input."""
        while b"\n" not in self._buffer and not self._ended:
            self._reading = self._reading or asyncio.ensure_future(
                call_in_thread(partial(os.read, self._descriptor, READ_BYTES))
            )
            read = await asyncio.shield(self._reading)  # when cancelled, the next one goes on
            self._reading = None
            self._buffer += read
            self._ended = not read
        if not self._buffer:
            return None
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer = bytearray(rest)
        return line.decode(errors="replace").removesuffix("\r")


class Prompt:
    """One per terminal. `history` is the file that keeps the lines typed into this app."""

    def __init__(self, history: Path) -> None:
        self._history = history
        self._pipe = Pipe(0)
        self._sessions: dict[bool, PromptSession[str]] = {}

    async def ask(
        self, prompt: str, choices: Sequence[str] = (), *, own: bool = True
    ) -> str | None:
        """A line; with `choices` one of these. None at the end of input, Interrupted on Ctrl-C.

        What is typed for a child of the app (`own` is False) stays out of the app's history.
        """
        if choices:
            prompt = f"{prompt.rstrip()} [{'/'.join(choices)}] "
        while True:
            line = await self._read(prompt, own)
            if line is None or not choices:
                return line
            for choice in choices:
                if choice.casefold() == line.strip().casefold():
                    return choice
            print(f"llmos: one of {', '.join(choices)}, please", file=sys.stderr)

    async def _read(self, prompt: str, own: bool) -> str | None:
        if not sys.stdin.isatty():
            return await self._pipe.read_line()
        from prompt_toolkit.patch_stdout import patch_stdout

        if own not in self._sessions:
            self._sessions[own] = open_session(self._history if own else None)
        session = self._sessions[own]
        try:
            with patch_stdout(raw=True):  # what comes is for terminals: see Screen
                return await session.prompt_async(prompt, handle_sigint=False)
        except EOFError:
            return None
        except Interrupted:
            raise Interrupted(bool(session.default_buffer.text)) from None


def open_session(history: Path | None) -> "PromptSession[str]":
    """A line editor, with a history that lasts if there is a file for it.

    It draws on stderr when stdout is no terminal.
    """
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    from prompt_toolkit.output import create_output

    if history is not None:
        history.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return PromptSession(
        history=InMemoryHistory() if history is None else FileHistory(str(history)),
        output=create_output(always_prefer_tty=True),
        interrupt_exception=Interrupted,
    )
