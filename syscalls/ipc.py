"""Calls that reach people and other processes: `print`, `ask`, `send`, `receive`."""

from typing import Annotated

import msgspec
from msgspec import Meta

from .types import MAX_SLEEP_SECONDS, Name, Pid, Text

MAX_LETTER_CHARS = 65_536


class Print(msgspec.Struct, frozen=True):
    """Write text to the process's output."""

    text: Text


class Printed(msgspec.Struct, frozen=True):
    """Where the text starts in the process's output, in characters."""

    offset: int


class Ask(msgspec.Struct, frozen=True):
    """Ask a person for a line; with `choices`, for one of these."""

    prompt: Annotated[str, Meta(max_length=10_000)] = ""
    choices: Annotated[tuple[Name, ...], Meta(max_length=100)] = ()


class Answer(msgspec.Struct, frozen=True):
    """The line; None when there is nobody to answer any more (end of input)."""

    text: str | None


class Send(msgspec.Struct, frozen=True):
    """Send a message to a process: parent, child, or with `processes` any of the same tenant."""

    pid: Pid
    text: Annotated[str, Meta(max_length=MAX_LETTER_CHARS)]


class Sent(msgspec.Struct, frozen=True):
    """The message is in the process's box, under this number."""

    letter: int


class Receive(msgspec.Struct, frozen=True):
    """Take the oldest message; with a time-out, wait for one no longer than that."""

    timeout_seconds: Annotated[float, Meta(ge=0.0, le=MAX_SLEEP_SECONDS)] | None = None


class Letter(msgspec.Struct, frozen=True):
    """A message. `sender` is a pid; `sent_at` is in Unix seconds."""

    sender: int
    text: str
    sent_at: float


class Received(msgspec.Struct, frozen=True):
    """The message; None when the time was over."""

    letter: Letter | None
