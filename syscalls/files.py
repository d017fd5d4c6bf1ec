"""Calls on the process's workspace: `read_file`, `write_file`, `list_files`."""

from typing import Annotated

import msgspec
from msgspec import Meta

from .types import Path

MAX_FILE_CHARS = 200_000


class ReadFile(msgspec.Struct, frozen=True):
    """Read up to `max_chars` characters of a UTF-8 text file from character `offset` on."""

    path: Path
    offset: Annotated[int, Meta(ge=0, le=2**53)] = 0
    max_chars: Annotated[int, Meta(ge=1, le=MAX_FILE_CHARS)] = MAX_FILE_CHARS


class FileText(msgspec.Struct, frozen=True):
    """A part of a file. `more` tells that text follows; the next offset is after this text."""

    text: str
    more: bool


class WriteFile(msgspec.Struct, frozen=True):
    """Replace a file's content, or make the file."""

    path: Path
    text: Annotated[str, Meta(max_length=MAX_FILE_CHARS)]


class FileWritten(msgspec.Struct, frozen=True):
    """How much was written."""

    size_bytes: int


class ListFiles(msgspec.Struct, frozen=True):
    """List a folder of the workspace."""

    path: Path = "."


class FileList(msgspec.Struct, frozen=True):
    """Names in order; a folder's name ends in a slash."""

    names: tuple[str, ...]
