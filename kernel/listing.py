"""What is known of processes, live ones and those of the store, in one shape."""

from collections.abc import Sequence

import msgspec

from llmos.memory import processes
from llmos.memory.journal import count_printed_chars
from llmos.memory.processes import ProcessRecord
from llmos.memory.waits import Wait, find_waits
from llmos.syscalls.errors import E_ARG, E_PERM, E_STORAGE
from llmos.syscalls.process import (
    ExitStatus,
    ProcessExit,
    ProcessInfo,
    ProcessList,
    State,
    Waiting,
)

from .machine import Machine
from .process import TENANT, ProcessSpec

MAX_SHOWN_CHARS = 200
_spec_decoder = msgspec.msgpack.Decoder(ProcessSpec)


def decode_spec(record: ProcessRecord) -> ProcessSpec:
    """The spec that a record holds. E_STORAGE if it cannot be read."""
    try:
        return _spec_decoder.decode(record.spec)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise E_STORAGE(f"the record of process {record.pid} cannot be read: {error}") from None


async def list_processes(machine: Machine, limit: int) -> ProcessList:
    """The newest processes, newest last; live ones as they are now."""
    records = await processes.list(machine.db, limit)
    asleep = [one.pid for one in records if one.ended_at is None and one.state == "EVICTED"]
    waits = await find_waits(machine.db, asleep) if asleep else {}
    infos = []
    for record in records:
        info = describe_process(machine, record, waits.get(record.pid, ()))
        infos.append(msgspec.structs.replace(info, argv=shorten(info.argv)))
    return ProcessList(tuple(infos))


def describe_process(
    machine: Machine, record: ProcessRecord, waits: tuple[Wait, ...] = ()
) -> ProcessInfo:
    """A process as it is now if it lives, else as the store has it."""
    live = machine.table.get(record.pid)
    return live.info() if live is not None else _recorded(record, waits)


async def require_record(machine: Machine, pid: int) -> ProcessRecord:
    """The record of a process of the person's own. E_ARG if there is none, E_PERM if it is not."""
    record = await processes.get(machine.db, pid)
    if record is None:
        raise E_ARG(f"there is no process {pid}", field="pid")
    if record.tenant != TENANT:
        raise E_PERM(f"process {pid} is another tenant's", field="pid")
    return record


def shorten(argv: Sequence[str]) -> tuple[str, ...]:
    """Arguments as a listing shows them: MAX_SHOWN_CHARS characters or a little more in all."""
    shown: list[str] = []
    room = MAX_SHOWN_CHARS
    for word in argv:
        if room < len(word):
            shown.append(word[:room] + "…")
            break
        shown.append(word)
        room -= len(word) + 1
    return tuple(shown)


def _recorded(record: ProcessRecord, waits: tuple[Wait, ...]) -> ProcessInfo:
    """A process that does not live: it has ended, sleeps, or was left behind."""
    has_ended = record.ended_at is not None
    state: State = "STOPPED" if record.state == "STOPPED" else "EVICTED"
    if record.state == processes.DAMAGED:
        state = "DAMAGED"
    why_left = "" if has_ended else record.result or ""
    try:
        argv = () if state == "DAMAGED" else decode_spec(record).argv
    except E_STORAGE as error:
        argv, why_left = (), error.message
    return ProcessInfo(
        record.pid,
        record.parent,
        record.app,
        argv,
        "ZOMBIE" if has_ended else state,
        record.model,
        record.created_at,
        record.ended_at,
        msgspec.convert(record.exit_status, ExitStatus | None),
        record.exit_code,
        record.prompt_tokens,
        record.completion_tokens,
        tuple(_show_wait(wait) for wait in waits),
        why_left,
    )


def _show_wait(wait: Wait) -> Waiting:
    return Waiting(wait.kind, wait.due_at, wait.target if wait.kind == "child" else None)


async def read_exit(machine: Machine, pid: int, parent: int) -> ProcessExit | None:
    """How a child ended; None if it has not. Raises E_ARG, or E_PERM if it is no child."""
    record = await processes.get(machine.db, pid)
    if record is None:
        raise E_ARG(f"there is no process {pid}", field="pid")
    if record.parent != parent:
        raise E_PERM(f"process {pid} is not a child of this one", field="pid")
    if record.exit_status is None or record.exit_code is None:
        return None
    status = msgspec.convert(record.exit_status, ExitStatus)
    text = record.result or ""
    result, error = (text, "") if status == "exited" else ("", text)
    printed = await machine.db.read(lambda c: count_printed_chars(c, pid)) > 0
    return ProcessExit(pid, status, record.exit_code, result, error, printed)
