"""Calls that outlive a window: contexts, `remember`, `recall`, `forget`."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from .types import Message, Name

MAX_NOTE_CHARS = 100_000
MAX_QUERY_CHARS = 10_000
ContextId = Annotated[int, Meta(ge=1, le=2**53)]
NoteKind = Literal["turn", "fact", "doc", "tool_result", "summary", "note"]


class ContextCreate(msgspec.Struct, frozen=True):
    """Start a context of this process with these messages (a system message first, if any)."""

    messages: Annotated[tuple[Message, ...], Meta(max_length=10_000)] = ()


class ContextCreated(msgspec.Struct, frozen=True):
    """The new context's number."""

    context: int


class ContextAppend(msgspec.Struct, frozen=True):
    """Add messages to the end of a context."""

    context: ContextId
    messages: Annotated[tuple[Message, ...], Meta(min_length=1, max_length=10_000)]


class ContextLength(msgspec.Struct, frozen=True):
    """How many messages the context has now, and how many it had before.

    `context` is None only in journals of an older version.
    """

    num_messages: int
    context: int | None = None
    num_before: int = 0


class ContextRead(msgspec.Struct, frozen=True):
    """Ask for a context's messages."""

    context: ContextId


class ContextMessages(msgspec.Struct, frozen=True):
    """A context's messages in order."""

    messages: tuple[Message, ...]


class Remember(msgspec.Struct, frozen=True):
    """Keep `text` in a memory space; None is the first space that the manifest lets write."""

    text: Annotated[str, Meta(min_length=1, max_length=MAX_NOTE_CHARS)]
    kind: NoteKind = "note"
    role: Annotated[str, Meta(max_length=100)] = ""
    space: Name | None = None


class Remembered(msgspec.Struct, frozen=True):
    """The name under which the note can be forgotten."""

    uid: str


class Recall(msgspec.Struct, frozen=True):
    """Find the notes that answer `query`, best first; none is an answer.

    `space` None searches every space that the manifest lets read.
    """

    query: Annotated[str, Meta(min_length=1, max_length=MAX_QUERY_CHARS)]
    limit: Annotated[int, Meta(ge=1, le=1000)] = 8
    space: Name | None = None


class Note(msgspec.Struct, frozen=True):
    """A remembered text. `recorded_at` is in Unix seconds; a higher `score` is a better match."""

    uid: str
    text: str
    score: float
    kind: str
    space: str
    role: str
    recorded_at: float


class Recalled(msgspec.Struct, frozen=True):
    """The notes found, best first."""

    notes: tuple[Note, ...]


class Forget(msgspec.Struct, frozen=True):
    """Make a note unfindable."""

    uid: Annotated[str, Meta(min_length=1, max_length=64)]
    space: Name | None = None


class Forgotten(msgspec.Struct, frozen=True):
    """Whether there was such a note."""

    existed: bool
