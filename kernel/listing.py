"""What is known of processes, live ones and those of the store, in one shape."""

from collections.abc import Sequence

import msgspec

from llmos.memory import processes
from llmos.memory.journal import read_output
from llmos.memory.processes import ProcessRecord
from llmos.syscalls.errors import E_ARG, E_PERM
from llmos.syscalls.process import ExitStatus, ProcessExit, ProcessInfo, ProcessList

from .machine import Machine
from .process import TENANT, ProcessSpec

MAX_SHOWN_CHARS = 200
_spec_decoder = msgspec.msgpack.Decoder(ProcessSpec)


def decode_spec(record: ProcessRecord) -> ProcessSpec:
    """The spec that a record holds."""
    return _spec_decoder.decode(record.spec)


async def list_processes(machine: Machine, limit: int) -> ProcessList:
    """The newest processes, newest last; live ones as they are now."""
    infos = []
    for record in await processes.list(machine.db, limit):
        info = describe_process(machine, record)
        infos.append(msgspec.structs.replace(info, argv=shorten(info.argv)))
    return ProcessList(tuple(infos))


def describe_process(machine: Machine, record: ProcessRecord) -> ProcessInfo:
    """A process as it is now if it lives, else as the store has it."""
    live = machine.table.get(record.pid)
    return live.info() if live is not None else _recorded(record)


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


def _recorded(record: ProcessRecord) -> ProcessInfo:
    """A process that does not live: ended, or left behind by a kernel that died."""
    return ProcessInfo(
        record.pid,
        record.parent,
        record.app,
        decode_spec(record).argv,
        "ZOMBIE" if record.ended_at is not None else "EVICTED",
        record.model,
        record.created_at,
        record.ended_at,
        msgspec.convert(record.exit_status, ExitStatus | None),
        record.exit_code,
        record.prompt_tokens,
        record.completion_tokens,
    )


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
    printed = bool(await read_output(machine.db, pid))
    return ProcessExit(pid, status, record.exit_code, result, error, printed)
