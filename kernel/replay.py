"""Replay: a call that the journal already holds is answered from it.

The app's main runs again from its start; each call is matched by (strand, seq) and must be the
same call. Finished calls are answered as they were; an interrupted one goes on by its effect.
"""

from collections.abc import Iterable

import msgspec

from llmos.memory.journal import JournalRow
from llmos.syscalls.errors import E_IN_DOUBT, E_NONDETERMINISM, ErrorReply, raise_reply
from llmos.syscalls.generate import Generation
from llmos.syscalls.table import Syscall

from .process import Process

_generation_decoder = msgspec.msgpack.Decoder(Generation)
_error_decoder = msgspec.msgpack.Decoder(ErrorReply)


def find_recorded(
    process: Process, strand: str, seq: int, row: Syscall, digest: bytes
) -> JournalRow | None:
    """The journal's row of this call, if there is one; E_NONDETERMINISM if it is another call."""
    recorded = process.journaled.get((strand, seq))
    if recorded is None:
        return None
    if (recorded.name, recorded.digest) != (row.name, digest):
        other = "other arguments" if recorded.name == row.name else f"{row.name!r}"
        raise E_NONDETERMINISM(
            f"step {strand}:{seq} was {recorded.name!r} in the journal; now it came with {other}"
        )
    return recorded


def recorded_result(recorded: JournalRow) -> bytes | None:
    """A finished call's result; its error is raised. None when the call was interrupted."""
    if recorded.state == "DONE" and recorded.result is not None:
        return recorded.result
    if recorded.error is not None:
        raise_reply(_error_decoder.decode(recorded.error))
    return None


def count_tokens(rows: Iterable[JournalRow]) -> tuple[int, int]:
    """Prompt and completion tokens of the generations that had finished."""
    usages = [
        _generation_decoder.decode(row.result).usage
        for row in rows
        if row.name == "generate" and row.result is not None
    ]
    return sum(u.prompt_tokens for u in usages), sum(u.completion_tokens for u in usages)


def check_interrupted(recorded: JournalRow | None) -> None:
    """An interrupted `once` call may have had its effect: E_IN_DOUBT, never a second run."""
    if recorded is not None and recorded.effect == "once":
        raise E_IN_DOUBT(
            f"{recorded.name} of step {recorded.strand}:{recorded.seq} was interrupted; "
            "whether it had its effect is not known"
        )
