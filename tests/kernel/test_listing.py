"""Live processes and recorded ones in one list, and how a child ended."""

from pathlib import Path

import pytest

from llmos.kernel.listing import decode_spec, list_processes, read_exit
from llmos.kernel.machine import Machine
from llmos.kernel.process import Process
from llmos.memory import processes
from llmos.memory.journal import append_output
from llmos.syscalls.errors import E_ARG, E_PERM
from llmos.syscalls.process import ProcessExit

from .conftest import make_process

pytestmark = pytest.mark.anyio


async def make_child(machine: Machine, workspace: Path, parent: int) -> Process:
    """A live process that the store knows as this one's child."""
    child = await make_process(machine, workspace)
    child.parent = parent
    await processes.update(machine.db, child.pid, parent=parent)
    return child


async def end(machine: Machine, process: Process, status: str, code: int, text: str) -> None:
    """Write that a process has ended."""
    machine.table.remove(process)
    await processes.update(
        machine.db,
        process.pid,
        state="ZOMBIE",
        exit_status=status,
        exit_code=code,
        result=text,
        ended_at=9.0,
        completion_tokens=3,
    )


async def test_a_record_holds_what_starts_the_process_again(
    machine: Machine, tmp_path: Path
) -> None:
    process = await make_process(machine, tmp_path)

    record = await processes.get(machine.db, process.pid)

    assert record is not None
    assert decode_spec(record) == process.spec


async def test_a_live_process_is_shown_as_it_is_now(machine: Machine, tmp_path: Path) -> None:
    process = await make_process(machine, tmp_path)
    process.state, process.completion_tokens = "READY", 5

    (info,) = (await list_processes(machine, 10)).processes

    assert info == process.info()
    assert (info.state, info.completion_tokens) == ("READY", 5)


async def test_a_process_keeps_its_name_and_arguments_when_it_has_ended(
    machine: Machine, tmp_path: Path
) -> None:
    process = await make_process(machine, tmp_path)
    before = process.info()

    await end(machine, process, "exited", 0, "done")

    (info,) = (await list_processes(machine, 10)).processes
    assert (info.pid, info.app, info.argv) == (before.pid, before.app, before.argv)
    assert (info.state, info.exit_status, info.exit_code) == ("ZOMBIE", "exited", 0)
    assert (info.ended_at, info.completion_tokens) == (9.0, 3)


async def test_a_process_that_a_dead_kernel_left_is_evicted(
    machine: Machine, tmp_path: Path
) -> None:
    machine.table.remove(await make_process(machine, tmp_path))

    (info,) = (await list_processes(machine, 10)).processes

    assert (info.state, info.ended_at, info.exit_status) == ("EVICTED", None, None)


async def test_the_newest_are_shown_newest_last(machine: Machine, tmp_path: Path) -> None:
    pids = [(await make_process(machine, tmp_path)).pid for _ in range(3)]

    listing = await list_processes(machine, 2)

    assert [info.pid for info in listing.processes] == pids[1:]


async def test_an_exit_tells_the_result_and_whether_something_was_printed(
    machine: Machine, tmp_path: Path
) -> None:
    parent = await make_process(machine, tmp_path)
    child = await make_child(machine, tmp_path, parent.pid)
    await machine.db.write(lambda connection: append_output(connection, child.pid, "hello"))
    await end(machine, child, "exited", 0, "done")

    ended = await read_exit(machine, child.pid, parent.pid)

    assert ended == ProcessExit(child.pid, "exited", 0, "done", "", printed=True)


@pytest.mark.parametrize(("status", "code"), [("failed", 5), ("killed", 7)])
async def test_an_exit_that_is_no_success_tells_why(
    machine: Machine, tmp_path: Path, status: str, code: int
) -> None:
    parent = await make_process(machine, tmp_path)
    child = await make_child(machine, tmp_path, parent.pid)
    await end(machine, child, status, code, "E_LIMIT: enough")

    ended = await read_exit(machine, child.pid, parent.pid)

    assert ended is not None
    assert (ended.status, ended.code) == (status, code)
    assert (ended.result, ended.error, ended.printed) == ("", "E_LIMIT: enough", False)


async def test_a_child_that_has_not_ended_has_no_exit(machine: Machine, tmp_path: Path) -> None:
    parent = await make_process(machine, tmp_path)
    child = await make_child(machine, tmp_path, parent.pid)

    assert await read_exit(machine, child.pid, parent.pid) is None


async def test_only_a_parent_hears_of_an_end(machine: Machine, tmp_path: Path) -> None:
    stranger = await make_process(machine, tmp_path)
    parent = await make_process(machine, tmp_path)
    child = await make_child(machine, tmp_path, parent.pid)

    with pytest.raises(E_PERM, match="not a child"):
        await read_exit(machine, child.pid, stranger.pid)
    with pytest.raises(E_ARG, match="there is no process 99"):
        await read_exit(machine, 99, parent.pid)
