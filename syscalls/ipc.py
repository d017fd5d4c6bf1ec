"""Calls that reach people: `print` and `ask`."""

from typing import Annotated

import msgspec
from msgspec import Meta

from .types import Name, Text


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
