"""A cut through a process's life: its first calls, and what they had made by then.

Calls are counted from 1 in the order in which they began, which is the order of their rows. What a
process had after its first N calls is what it has now without what the later ones have added:
contexts without later messages (an append's result says how many there were before it), output
without later texts (each names its call; one that names none was there before all calls).
"""

from collections.abc import Iterator, Sequence

import msgspec
from sqlalchemy import Connection

from llmos.syscalls.errors import E_ARG
from llmos.syscalls.memory import ContextCreated, ContextLength
from llmos.syscalls.process import Checkpointed
from llmos.syscalls.types import Message

from . import contexts
from .journal import CHECKPOINT_STRAND, JournalRow, append_output, insert_row, walk, walk_texts

_checkpointed = msgspec.msgpack.Decoder(Checkpointed)
_created = msgspec.msgpack.Decoder(ContextCreated)
_appended = msgspec.msgpack.Decoder(ContextLength)


class Cut(msgspec.Struct, frozen=True):
    """A process after `calls`, when `later` ones had not begun.

    `lengths` are the messages of its contexts, by the context's number. The calls' endings are
    those of now: a call of the cut may have ended after it. The output's first `num_chars_before`
    characters are of calls that a checkpoint has taken out.
    """

    pid: int
    calls: tuple[JournalRow, ...]
    later: tuple[JournalRow, ...]
    lengths: dict[int, int]
    num_chars_before: int

    @property
    def finished(self) -> list[JournalRow]:
        """The calls that have a result or an error."""
        return [row for row in self.calls if is_finished(row)]

    @property
    def unfinished(self) -> list[JournalRow]:
        """The calls that have neither."""
        return [row for row in self.calls if not is_finished(row)]


def is_finished(row: JournalRow) -> bool:
    """Whether it is known how a call ended."""
    return row.result is not None or row.error is not None


def read_cut(connection: Connection, pid: int, number: int | None = None) -> Cut:
    """A process after its first `number` calls, or after all that it has made.

    E_ARG with the field "at" if it has made fewer, E_STORAGE for a damaged journal.
    """
    rows = list(walk(connection, pid))
    number = len(rows) if number is None else number
    if number > len(rows):
        raise E_ARG(
            f"process {pid} has made {len(rows)} calls, not {number}; fix: --at {len(rows)}",
            field="at",
        )
    later = rows[number:]
    lengths = _count_messages(connection, pid, later)
    return Cut(pid, tuple(rows[:number]), tuple(later), lengths, _count_chars_before(rows))


def _count_chars_before(rows: Sequence[JournalRow]) -> int:
    """How much was written before the first of these calls."""
    first = rows[0] if rows else None
    if first is None or first.strand != CHECKPOINT_STRAND or first.result is None:
        return 0
    return _checkpointed.decode(first.result).num_chars


def _count_messages(
    connection: Connection, pid: int, later: Sequence[JournalRow]
) -> dict[int, int]:
    """How long contexts were, found by going back from now."""
    lengths = contexts.count_messages(connection, pid)
    for row in reversed(later):
        if row.result is None:
            continue
        if row.name == "context_create":
            lengths.pop(_created.decode(row.result).context, None)
        elif row.name == "context_append":
            appended = _appended.decode(row.result)
            if appended.context is None:
                raise E_ARG(
                    f"step {row.strand}:{row.seq} of process {pid} is of an older llmos, which did"
                    " not keep what it appended to; fix: name a later step",
                    field="at",
                )
            lengths[appended.context] = appended.num_before
    return lengths


def read_messages(connection: Connection, cut: Cut, context: int) -> tuple[Message, ...]:
    """The messages that a context of the cut had. E_STORAGE for damaged ones."""
    return contexts.read(connection, cut.pid, context, cut.lengths[context])


def read_texts(connection: Connection, cut: Cut) -> Iterator[tuple[str, tuple[str, int] | None]]:
    """What the finished calls of the cut had written, in order, each text with its call."""
    others = {(row.strand, row.seq) for row in (*cut.later, *cut.unfinished)}
    num_chars = 0
    for text, strand, seq in walk_texts(connection, cut.pid):
        call = None
        if strand is not None and seq is not None and num_chars >= cut.num_chars_before:
            call = (strand, seq)
        num_chars += len(text)
        if call not in others:
            yield text, call


def copy_cut(connection: Connection, cut: Cut, target: int) -> None:
    """Make the finished calls of a cut, and what they have made, those of a new process.

    The rows' checksums and their chain are made anew; a call that has not ended is left out.
    """
    for row in cut.finished:
        insert_row(connection, msgspec.structs.replace(row, pid=target))
    contexts.copy(connection, cut.pid, target, cut.lengths)
    for text, call in list(read_texts(connection, cut)):
        append_output(connection, target, text, call)
