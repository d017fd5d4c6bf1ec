"""Forking: a new process that has made the first calls of another one, and goes on from there.

Its journal is the other's first rows, so it replays them and then makes calls of its own. Contexts
and output are as they were. What belongs to one process alone cannot be taken along: a child that
is waited for, mail that is waited for, a `once` tool of which nobody knows whether it has acted.
Other calls without an ending are left out, and made anew.
"""

import secrets
from pathlib import Path

import msgspec

from llmos.memory.cuts import Cut, copy_cut, read_cut
from llmos.memory.db import Connection
from llmos.memory.journal import JournalRow
from llmos.syscalls.errors import E_ARG

from .listing import decode_spec, require_record
from .machine import Birth, Machine
from .manifest import find_app
from .sampling import Overrides, require_valid
from .workspace import require_folder

SALT_BYTES = 16
TIED = {"wait": "waits for a child", "receive": "waits for mail"}


async def plan_fork(machine: Machine, pid: int, model: str | None, sampling: Overrides) -> Birth:
    """The process that a fork of this one will be.

    E_ARG for an unknown process, a sampling field that is wrong, an app or a folder that is gone.
    """
    record = await require_record(machine, pid)
    require_valid(sampling)
    spec = decode_spec(record)
    require_folder(spec.workspace)
    changed = msgspec.structs.replace(
        spec,
        salt=secrets.token_hex(SALT_BYTES),
        model=model or spec.model,
        sampling=spec.sampling | sampling,
    )
    return Birth(find_app(spec.app, Path(spec.workspace)), None, changed)


def copy_past(connection: Connection, source: int, at: int, target: int) -> None:
    """Give a new process the first `at` calls of another one. E_ARG if they cannot be taken."""
    cut = read_cut(connection, source, at)
    _require_free(cut)
    copy_cut(connection, cut, target)


def _require_free(cut: Cut) -> None:
    """E_ARG naming the first call that ties the process to something that has no copy."""
    for number, row in enumerate(cut.calls, start=1):
        reason = _find_tie(row)
        if reason is not None and row in cut.unfinished:
            raise E_ARG(
                f"call {number} of process {cut.pid} {reason}, which no fork can take along;"
                f" fix: --at {number - 1}",
                field="at",
            )


def _find_tie(row: JournalRow) -> str | None:
    if row.effect == "once":
        return f"({row.name}) may have had its effect"
    return TIED.get(row.name)
