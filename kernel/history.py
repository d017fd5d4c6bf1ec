"""A process's history: its calls as people see them, numbered in the order in which they began."""

from collections.abc import AsyncIterator

import msgspec

from llmos.memory.journal import JournalRow
from llmos.memory.logs import read_calls
from llmos.syscalls.process import PidReply
from llmos.syscalls.types import Usage

from .machine import Machine
from .protocol import LogRow
from .replay import MODEL_CALLS

MAX_SUMMARY_CHARS = 200


class _Answered(msgspec.Struct):
    """What the replies of models' calls have; those of `generate` may have more branches."""

    usage: Usage
    others: tuple[msgspec.Raw, ...] = ()


_answered = msgspec.msgpack.Decoder(_Answered)
_spawned = msgspec.msgpack.Decoder(PidReply)


async def read_history(machine: Machine, pid: int) -> AsyncIterator[tuple[LogRow, ...]]:
    """A process's calls in order, in pieces. E_STORAGE names the first row that is damaged."""
    number = 0
    async for rows in read_calls(machine.db, pid):
        yield tuple(describe_call(number + n, row) for n, row in enumerate(rows, start=1))
        number += len(rows)


def describe_call(number: int, row: JournalRow) -> LogRow:
    """A journal's row for people: the arguments are not known, only their digest."""
    usage, num_branches, child = Usage(0, 0, 0), 0, None
    if row.result is not None and row.name in MODEL_CALLS:
        answered = _answered.decode(row.result)
        usage, num_branches = answered.usage, 1 + len(answered.others)
    elif row.result is not None and row.name == "spawn":
        child = _spawned.decode(row.result).pid
    return LogRow(
        number,
        row.strand,
        row.seq,
        row.name,
        row.state,
        row.started_at,
        row.ended_at,
        summarize(row.error or row.result or b""),
        row.digest.hex(),
        usage.prompt_tokens,
        usage.completion_tokens,
        num_branches,
        child,
    )


def summarize(body: bytes) -> str:
    """A value in msgpack as one short line; "" for none."""
    if not body:
        return ""
    text = msgspec.json.encode(msgspec.msgpack.decode(body)).decode()
    return text if len(text) <= MAX_SUMMARY_CHARS else text[: MAX_SUMMARY_CHARS - 3] + "..."
