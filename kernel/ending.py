"""How a process ended: what its last frame means, and the record of it."""

import shlex
from typing import NamedTuple

from llmos.memory import mail, processes, waits
from llmos.memory.chunks import delete_all_chunks
from llmos.memory.db import Connection
from llmos.memory.processes import ProcessRecord
from llmos.syscalls.errors import E_APP, E_CANCELLED, E_FRAME, E_NONDETERMINISM, ErrorReply
from llmos.syscalls.process import ExitStatus, ProcessExit
from llmos.syscalls.runtime import EXIT_FAILED, EXIT_KILLED
from llmos.syscalls.wire import Exit

from .applog import AppLog
from .listing import decode_spec, shorten
from .machine import Machine
from .process import Process


class Bereaved(NamedTuple):
    """Who is left when a process has ended: its children, and who was woken by its end."""

    children: tuple[int, ...] = ()
    woken: tuple[int, ...] = ()


def judge(
    process: Process, ending: Exit | None, log: AppLog
) -> tuple[ProcessExit, ErrorReply | None]:
    """What an ending means, and the error to show."""
    status: ExitStatus = "exited"
    code, result, error = EXIT_FAILED, "", None
    if process.killed_by is not None:
        status, code = "killed", EXIT_KILLED
        error = killed(process.pid, process.killed_by)
    elif ending is None or (ending.code == EXIT_FAILED and ending.error is None):
        status = "failed"
        why = log.last_words() or "it said nothing"
        error = E_APP(f"the app crashed: {why} (log: {log.path})").reply()
    else:
        status = "failed" if ending.code else "exited"
        code, result, error = ending.code, ending.result, ending.error
    text = f"{error.code}: {error.message}" if error is not None else ""
    printed = process.num_printed_chars > 0
    return ProcessExit(process.pid, status, code, result, text, printed), error


def killed(pid: int, by: str) -> ErrorReply:
    """What is said of a process that did not end by itself."""
    return E_CANCELLED(f"process {pid} was ended by {by}").reply()


def was_cut_off(ending: Exit | None) -> bool:
    """Whether an app's stream ended before its last frame, or inside of one."""
    return ending is None or (ending.error is not None and ending.error.code == E_FRAME.code)


def find_divergence(ending: Exit | None) -> ErrorReply | None:
    """The error of an app whose calls are not those of its journal, so that it cannot go on."""
    if ending is None or ending.error is None or ending.error.code != E_NONDETERMINISM.code:
        return None
    return ending.error


async def write_end(machine: Machine, ended: ProcessExit, num_tokens: tuple[int, int]) -> Bereaved:
    """Write how a process ended and wake who waits for it, in one transaction.

    E_STORAGE when the disk fails and who waits for this process is given up; it is written as soon
    as the disk works.
    """
    columns = {
        "state": "ZOMBIE",
        "exit_status": ended.status,
        "exit_code": ended.code,
        "result": ended.error or ended.result,
        "ended_at": machine.clock.now(),
        "prompt_tokens": num_tokens[0],
        "completion_tokens": num_tokens[1],
    }
    left: list[Bereaved] = []

    def end(connection: Connection) -> None:
        processes.change(connection, ended.pid, **columns)
        delete_all_chunks(connection, ended.pid)
        waits.forget_waits(connection, ended.pid)
        mail.empty_box(connection, ended.pid)
        woken = waits.fire(connection, "child", ended.pid)
        left.append(Bereaved(processes.find_children(connection, ended.pid), tuple(woken)))

    machine.db.write_nowait(end, owner=ended.pid)
    await machine.db.flush(owner=ended.pid, keep=True)
    return left[-1] if left else Bereaved()


def describe_end(record: ProcessRecord) -> str:
    """How a process ended, for a sentence that says that it has."""
    error = (record.result or "").partition(": ")[2] if record.exit_status != "exited" else ""
    return f" ({error})" if error else ""


def name_command(record: ProcessRecord) -> str:
    """The command that starts an app anew."""
    spec = decode_spec(record)
    return f"llmos run {shlex.join((spec.app, *shorten(spec.argv)))}"
