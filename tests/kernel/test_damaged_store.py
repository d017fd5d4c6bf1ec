"""A damaged store in a kernel that runs: whose it is hears of it, nobody else does."""

from pathlib import Path

import pytest

from llmos.kernel.listing import list_processes, read_exit
from llmos.kernel.machine import Machine
from llmos.kernel.process import Process
from llmos.kernel.replay import count_outlined_tokens
from llmos.memory import processes
from llmos.memory.journal import append_output, load_outline
from llmos.syscalls.client import System
from llmos.syscalls.errors import E_STORAGE

from .conftest import Attach, make_process, read_rows

pytestmark = pytest.mark.anyio

LARGE = "a line of a long file\n" * 2000


async def damage(machine: Machine, statement: str) -> None:
    """Change the store behind the kernel's back."""
    await machine.db.write(lambda connection: connection.exec_driver_sql(statement).rowcount)


async def come_back(attach: Attach, machine: Machine, process: Process) -> System:
    """The process's next life, with the journal that it has."""
    await machine.db.flush()
    rows = await load_outline(machine.db, process.pid)
    process.begin_again(rows, await count_outlined_tokens(machine.db, rows), 0)
    system, _ = await attach(again=process)
    return system


async def test_a_large_reply_is_replayed_from_where_it_is_kept(
    attach: Attach, machine: Machine, tmp_path: Path
) -> None:
    (tmp_path / "long.txt").write_text(LARGE)
    system, process = await attach()
    assert await system.read_file("long.txt") == LARGE
    (tmp_path / "long.txt").unlink()

    again = await come_back(attach, machine, process)

    assert any(row.blob for row in process.journaled.values())
    assert await again.read_file("long.txt") == LARGE


async def test_a_lost_body_is_an_error_of_its_call_alone(
    attach: Attach, machine: Machine, tmp_path: Path
) -> None:
    (tmp_path / "long.txt").write_text(LARGE)
    system, process = await attach()
    drawn = await system.random()
    await system.read_file("long.txt")
    num_rows = len(await read_rows(machine, process))
    await damage(machine, "DELETE FROM blob")

    again = await come_back(attach, machine, process)
    other, _ = await attach()

    assert await again.random() == drawn
    with pytest.raises(E_STORAGE, match=rf"body of .* call {process.pid}/0/1 is missing"):
        await again.read_file("long.txt")
    assert await other.read_file("long.txt") == LARGE
    assert await again.now() > 0
    await machine.db.flush()
    assert len(await load_outline(machine.db, process.pid)) == num_rows + 1


async def test_tokens_of_large_replies_are_counted(attach: Attach, machine: Machine) -> None:
    system, process = await attach()
    await system.embed(["a text to be embedded"] * 64)
    await system.score("a prompt", ["one", "two"])
    used = (process.prompt_tokens, process.completion_tokens)

    await come_back(attach, machine, process)

    assert (process.prompt_tokens, process.completion_tokens) == used != (0, 0)


async def test_a_damaged_process_is_listed_and_hides_no_other(
    machine: Machine, tmp_path: Path
) -> None:
    pids = [(await make_process(machine, tmp_path)).pid for _ in range(3)]
    for process in tuple(machine.table):
        machine.table.remove(process)
    await damage(machine, f"UPDATE process SET spec = X'00' WHERE pid = {pids[1]}")

    infos = (await list_processes(machine, 10)).processes

    assert [(info.pid, info.state) for info in infos] == [
        (pids[0], "EVICTED"),
        (pids[1], "DAMAGED"),
        (pids[2], "EVICTED"),
    ]


async def test_damaged_output_of_a_child_does_not_hide_how_it_ended(
    machine: Machine, tmp_path: Path
) -> None:
    parent, child = [await make_process(machine, tmp_path) for _ in range(2)]
    await machine.db.write(lambda c: append_output(c, child.pid, "words"))
    await processes.update(
        machine.db, child.pid, parent=parent.pid, exit_status="exited", exit_code=0, ended_at=1.0
    )
    await damage(machine, "UPDATE output SET text = 'other'")

    ended = await read_exit(machine, child.pid, parent.pid)

    assert ended is not None
    assert (ended.status, ended.printed) == ("exited", True)
