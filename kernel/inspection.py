"""Inspection: what a process was after its first calls, told from its journal."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

from llmos.memory.cuts import Cut, read_cut, read_messages, read_texts
from llmos.memory.journal import JournalRow
from llmos.memory.processes import ProcessRecord
from llmos.syscalls.process import State
from llmos.syscalls.types import Message

from .history import describe_call
from .listing import decode_spec, describe_process, require_record
from .machine import Machine
from .protocol import Inspection, InspectionPart
from .replay import count_tokens

PART_CHARS = 1 << 18
T = TypeVar("T")


async def inspect(
    machine: Machine, pid: int, at: int | None
) -> AsyncIterator[Inspection | InspectionPart]:
    """First what the process was, then its output and its contexts in parts; the last is empty.

    E_ARG with the field "pid" or "at" for what there is not, E_STORAGE naming what is damaged.
    """
    record = await require_record(machine, pid)
    cut = await machine.db.read(lambda connection: read_cut(connection, pid, at))
    yield _describe(machine, record, cut)
    texts = await machine.db.read(lambda c: [text for text, _ in read_texts(c, cut)])
    for part in _split(texts, len):
        yield InspectionPart(output="".join(part))
    for context in cut.lengths:
        messages = await machine.db.read(partial(read_messages, cut=cut, context=context))
        for some in _split(messages, _count_chars):
            yield InspectionPart(context=context, messages=tuple(some))
    yield InspectionPart(is_last=True)


def _describe(machine: Machine, record: ProcessRecord, cut: Cut) -> Inspection:
    at, spec = len(cut.calls), decode_spec(record)
    still_open = _find_open(cut)
    state: State = "WAITING" if still_open else "READY"
    prompt_tokens, completion_tokens = count_tokens(cut.calls)
    return Inspection(
        record.pid,
        at,
        at + len(cut.later),
        state if cut.later else describe_process(machine, record).state,
        record.app,
        spec.argv,
        record.model,
        prompt_tokens,
        completion_tokens,
        dict(Counter(row.name for row in cut.calls)),
        tuple(describe_call(number, row) for number, row in still_open),
        cut.lengths,
    )


def _find_open(cut: Cut) -> list[tuple[int, JournalRow]]:
    """The calls, with their numbers, that had no reply when the next one began, or have none."""
    until = cut.later[0].started_at if cut.later else float("inf")
    numbered = enumerate(cut.calls, start=1)
    return [one for one in numbered if one[1].ended_at is None or one[1].ended_at > until]


def _split(values: Iterable[T], weigh: Callable[[T], int]) -> Iterator[list[T]]:
    """Values in runs of about PART_CHARS characters."""
    run: list[T] = []
    num_chars = 0
    for value in values:
        run.append(value)
        num_chars += weigh(value)
        if num_chars >= PART_CHARS:
            yield run
            run, num_chars = [], 0
    if run:
        yield run


def _count_chars(message: Message) -> int:
    return len(message.content) + sum(len(call.arguments) for call in message.tool_calls)
