"""Replay: a call that the journal already holds is answered from it.

The app's main runs again from its start, or an app sends a request again; each call is matched by
(strand, seq) and must be the same call. Finished calls are answered as they were; an interrupted
one goes on by its effect.
"""

from collections.abc import Iterable

import msgspec

from llmos.memory.journal import JournalRow, find
from llmos.syscalls.errors import E_IN_DOUBT, E_NONDETERMINISM, ErrorReply, raise_reply
from llmos.syscalls.types import Usage
from llmos.syscalls.wire import Request

from .machine import Machine
from .process import Process

MODEL_CALLS = frozenset({"generate", "score", "embed"})


class _Used(msgspec.Struct):
    """What the replies of all models' calls have."""

    usage: Usage


_used_decoder = msgspec.msgpack.Decoder(_Used)
_error_decoder = msgspec.msgpack.Decoder(ErrorReply)


async def find_recorded(
    machine: Machine, process: Process, request: Request, again: bool
) -> JournalRow | None:
    """The journal's row of this number, if there is one.

    A number that comes for the first time is looked for among the rows that the process came back
    with, and its row is let go; one that comes `again`, in the store.
    """
    if again:
        return await find(machine.db, process.pid, request.strand, request.seq)
    return process.journaled.pop((request.strand, request.seq), None)


def require_same(recorded: JournalRow, name: str, digest: bytes) -> None:
    """E_NONDETERMINISM if the row is of another call."""
    if (recorded.name, recorded.digest) != (name, digest):
        other = "other arguments" if recorded.name == name else f"{name!r}"
        raise E_NONDETERMINISM(
            f"step {recorded.strand}:{recorded.seq} was {recorded.name!r} in the journal; "
            f"now it came with {other}"
        )


def recorded_result(recorded: JournalRow) -> bytes | None:
    """A finished call's result; its error is raised. None when the call was interrupted."""
    if recorded.state == "DONE" and recorded.result is not None:
        return recorded.result
    if recorded.error is not None:
        raise_reply(_error_decoder.decode(recorded.error))
    return None


def count_tokens(rows: Iterable[JournalRow]) -> tuple[int, int]:
    """Prompt and completion tokens of the models' calls that had finished."""
    usages = [
        _used_decoder.decode(row.result).usage
        for row in rows
        if row.name in MODEL_CALLS and row.result is not None
    ]
    return sum(u.prompt_tokens for u in usages), sum(u.completion_tokens for u in usages)


def check_interrupted(recorded: JournalRow | None) -> None:
    """An interrupted `once` call may have had its effect: E_IN_DOUBT, never a second run."""
    if recorded is not None and recorded.effect == "once":
        raise E_IN_DOUBT(
            f"{recorded.name} of step {recorded.strand}:{recorded.seq} was interrupted; "
            "whether it had its effect is not known"
        )
