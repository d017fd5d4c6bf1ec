"""Replay: a call that the journal already holds is answered from it.

The app's main runs again from its start, or an app sends a request again; each call is matched by
(strand, seq) and must be the same call. A finished call is answered as it was; one that the app
gave up is not answered, and given up again; an interrupted one goes on by its effect.
"""

from collections.abc import Iterable

import msgspec

from llmos.memory.db import Database
from llmos.memory.journal import JournalRow, fill, find
from llmos.syscalls.errors import (
    E_CANCELLED,
    E_NONDETERMINISM,
    E_STORAGE,
    ErrorReply,
    raise_reply,
)
from llmos.syscalls.generate import Generate
from llmos.syscalls.types import Usage
from llmos.syscalls.values import Patch
from llmos.syscalls.wire import Request

from .journal import ask_again
from .machine import Machine
from .process import Process, Reach

ABANDONED = "app"
NOWHERE = Reach(0, 0)
MODEL_CALLS = frozenset({"generate", "score", "embed"})
_USING_CALLS = MODEL_CALLS | {"checkpoint"}


class _Used(msgspec.Struct):
    """What the replies of all calls with usage have."""

    usage: Usage


class _Told(msgspec.Struct):
    """What a reply that was streamed has."""

    text: str


_text_decoder = msgspec.msgpack.Decoder(_Told)
_used_decoder = msgspec.msgpack.Decoder(_Used)
_error_decoder = msgspec.msgpack.Decoder(ErrorReply)


async def find_recorded(
    machine: Machine, process: Process, request: Request, again: bool
) -> JournalRow | None:
    """The journal's row of this number, if there is one.

    A number that comes for the first time is looked for among the rows that the process came back
    with, and its row is let go; one that comes `again`, in the store. E_STORAGE names a call whose
    row or body is damaged.
    """
    key = (request.strand, request.seq)
    try:
        if again:
            return await find(machine.db, process.pid, *key)
        row = process.journaled.get(key)
        if row is not None and row.blob is not None:
            row = await fill(machine.db, row)
    except E_STORAGE as error:
        raise ask_again(error) from None
    process.journaled.pop(key, None)
    return row


def require_same(recorded: JournalRow, name: str, digest: bytes, code_hash: str) -> None:
    """E_NONDETERMINISM if the row is of another call than this one of the app's code as it is."""
    if (recorded.name, recorded.digest) == (name, digest):
        return
    came = f"{name!r}"
    if recorded.name == name:
        digests = f"digest {digest.hex()[:8]}, in the journal {recorded.digest.hex()[:8]}"
        came = f"other arguments ({digests})"
    cause = "fix: take what may differ from run to run from calls: sys.now, sys.random, sys.uuid"
    if recorded.code_hash != code_hash:
        cause = (
            "the app's code has changed since that step; "
            "fix: keep the old way beside the new one with sys.patch, or begin anew with llmos run"
        )
    raise E_NONDETERMINISM(
        f"step {recorded.strand}:{recorded.seq} was {recorded.name!r} in the journal; "
        f"now it came with {came}; {cause}"
    )


def is_passed(process: Process, request: Request, call: Patch, digest: bytes) -> bool:
    """Whether an earlier run went past this place without this patch: its journal goes on there.

    It may go on in the strand itself or in branches that the strand had not begun before.
    """
    row = process.journaled.get((request.strand, request.seq))
    if row is not None:
        return (row.name, row.digest) != (request.name, digest)
    if process.reach is None:
        process.reach = measure_reach(process.journaled)
    reach = process.reach.get(request.strand, NOWHERE)
    return reach.num_calls > request.seq or reach.num_children > call.num_children


def measure_reach(numbers: Iterable[tuple[str, int]]) -> dict[str, Reach]:
    """How far each strand goes that has one of these numbers, or has such a strand below it."""
    calls: dict[str, int] = {}
    for strand, seq in numbers:
        calls[strand] = max(calls.get(strand, 0), seq + 1)
    children: dict[str, int] = {}
    for strand in calls:
        parent, _, child = strand.rpartition(".")
        while parent and children.get(parent, 0) < int(child):
            children[parent] = int(child)
            parent, _, child = parent.rpartition(".")
    return {
        strand: Reach(calls.get(strand, 0), children.get(strand, 0))
        for strand in {*calls, *children}
    }


def recorded_result(recorded: JournalRow) -> bytes | None:
    """A finished call's result; its error is raised. None when the call was interrupted."""
    if recorded.state == "DONE" and recorded.result is not None:
        return recorded.result
    if recorded.error is not None:
        raise_reply(_error_decoder.decode(recorded.error))
    return None


def cancelled_error(is_abandoned: bool, partial: str | None) -> E_CANCELLED:
    """What the journal says of a call that was cancelled: by its app, or for its process to end."""
    if is_abandoned:
        return E_CANCELLED("the app gave the call up", field=ABANDONED, partial=partial)
    return E_CANCELLED("the call was cancelled", partial=partial)


def was_abandoned(recorded: JournalRow) -> bool:
    """Whether the app gave the call up: it saw no reply then, and must see none in a replay.

    What made it stop waiting (its own timeout, another branch) is the app's, and comes again.
    """
    if recorded.state != "CANCELLED" or recorded.error is None:
        return False
    return _error_decoder.decode(recorded.error).field == ABANDONED


def streamed_text(call: msgspec.Struct, result: bytes) -> str:
    """What a finished call was streamed as; an app whose code runs anew is streamed it again."""
    if not (isinstance(call, Generate) and call.stream):
        return ""
    return _text_decoder.decode(result).text


def count_tokens(rows: Iterable[JournalRow]) -> tuple[int, int]:
    """Prompt and completion tokens of the calls that had finished, and before a checkpoint."""
    usages = [
        _used_decoder.decode(row.result).usage
        for row in rows
        if row.name in _USING_CALLS and row.result is not None
    ]
    return sum(u.prompt_tokens for u in usages), sum(u.completion_tokens for u in usages)


async def count_outlined_tokens(db: Database, rows: Iterable[JournalRow]) -> tuple[int, int]:
    """`count_tokens` of rows whose large bodies are not here, one of which is fetched at a time."""
    num_prompt, num_completion = 0, 0
    for row in rows:
        here = row if row.blob is None or row.name not in _USING_CALLS else await fill(db, row)
        prompt_tokens, completion_tokens = count_tokens([here])
        num_prompt, num_completion = num_prompt + prompt_tokens, num_completion + completion_tokens
    return num_prompt, num_completion
