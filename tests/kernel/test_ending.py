"""How an ending is judged, and who is left by it."""

from pathlib import Path

import pytest

from llmos.kernel.applog import AppLog
from llmos.kernel.ending import Bereaved, judge, was_cut_off, write_end
from llmos.kernel.machine import Machine
from llmos.memory import mail, processes, waits
from llmos.memory.db import Connection
from llmos.memory.waits import Wait
from llmos.syscalls.errors import E_FRAME, E_LIMIT
from llmos.syscalls.process import ProcessExit
from llmos.syscalls.wire import Exit

from .conftest import make_process

pytestmark = pytest.mark.anyio
FRAME = Exit(1, error=E_FRAME("half a frame").reply())
LIMIT = Exit(5, error=E_LIMIT("enough").reply())


@pytest.mark.parametrize(
    ("killed_by", "ending", "judged"),
    [
        (None, Exit(0, "done"), ("exited", 0, "done", "")),
        (None, LIMIT, ("failed", 5, "", "E_LIMIT: enough")),
        ("TERM", Exit(0, "done"), ("killed", 7, "", "E_CANCELLED: process 1 was ended by TERM")),
        (None, None, ("failed", 1, "", "E_APP: the app crashed: it said nothing")),
        (None, Exit(1), ("failed", 1, "", "E_APP: the app crashed: it said nothing")),
    ],
)
async def test_an_ending_means(
    machine: Machine,
    tmp_path: Path,
    killed_by: str | None,
    ending: Exit | None,
    judged: tuple[str, int, str, str],
) -> None:
    process = await make_process(machine, tmp_path)
    process.killed_by = killed_by

    found, _ = judge(process, ending, AppLog(process.pid, tmp_path / "log", process.terminal))

    error, _, _ = found.error.partition(" (log: ")
    assert (found.status, found.code, found.result, error) == judged


@pytest.mark.parametrize(
    ("ending", "cut_off"), [(None, True), (FRAME, True), (LIMIT, False), (Exit(0), False)]
)
def test_a_stream_without_a_last_frame_was_cut_off(ending: Exit | None, cut_off: bool) -> None:
    assert was_cut_off(ending) == cut_off


async def test_an_end_wakes_who_waits_for_it_and_names_the_children(
    machine: Machine, tmp_path: Path
) -> None:
    parent, ending, child = [(await make_process(machine, tmp_path)).pid for _ in range(3)]
    await processes.update(machine.db, ending, parent=parent)
    await processes.update(machine.db, child, parent=ending)

    def prepare(connection: Connection) -> None:
        waits.write_waits(connection, [Wait(parent, "0", 0, "child", None, ending)], 1.0)
        mail.post(connection, ending, parent, 1.0, "unread")

    await machine.db.write(prepare)

    left = await write_end(machine, ProcessExit(ending, "exited", 0, "done"), (3, 4))

    assert left == Bereaved((child,), (parent,))
    record = await processes.get(machine.db, ending)
    assert record is not None
    assert (record.state, record.result, record.completion_tokens) == ("ZOMBIE", "done", 4)
    assert await mail.find_oldest(machine.db, ending) is None
