"""The control block of a process, what `ps` makes of it, and the table of live ones."""

from pathlib import Path

import anyio
import msgspec
import pytest

from llmos.kernel.capability import Capabilities
from llmos.kernel.manifest import Manifest
from llmos.kernel.process import CallInFlight, Process, ProcessSpec, ProcessTable
from llmos.kernel.terminal import NOBODY
from llmos.syscalls.errors import E_PERM
from llmos.syscalls.types import MAX_SEED
from llmos.syscalls.wire import Request

pytestmark = pytest.mark.anyio
CALL = Request("0", 0, "getpid", msgspec.Raw())


def make(pid: int = 1, parent: int | None = None, salt: str = "salt") -> Process:
    """A process of an app in a folder of its own."""
    folder = Path("/home/ada/diary")
    manifest = Manifest("diary", "1", "main:main", "", folder, False, Capabilities())
    spec = ProcessSpec(
        str(folder), ("a",), "/home/ada", ("/etc/motd",), "echo", salt, Capabilities()
    )
    return Process(pid, parent, manifest, spec, 5.0)


def test_a_new_process_has_no_person_and_has_done_nothing() -> None:
    process = make()

    assert process.terminal is NOBODY
    assert (process.state, process.exit, process.in_flight) == ("NEW", None, {})


def test_the_root_is_the_first_ancestor_that_is_known() -> None:
    table = ProcessTable()
    first, child, orphan = make(1), make(2, parent=1), make(5, parent=4)
    for process in (first, child, make(3, parent=2), orphan):
        table.add(process)

    roots = [table.find_root(process) for process in table]

    assert roots == [1, 1, 1, 4]


def test_its_workspace_holds_the_folder_and_the_named_files() -> None:
    workspace = make().workspace

    assert workspace.relative("notes/a.txt") == ("notes", "a.txt")
    assert workspace.relative("/etc/motd") is None
    with pytest.raises(E_PERM):
        workspace.relative("/etc/passwd")


def test_ps_shows_what_it_is_and_what_it_used() -> None:
    process = make(pid=4, parent=2)
    process.prompt_tokens, process.completion_tokens = 10, 20

    info = process.info()

    assert (info.pid, info.parent, info.argv, info.model) == (4, 2, ("a",), "echo")
    assert (info.started_at, info.ended_at, info.exit_code) == (5.0, None, None)
    assert (info.prompt_tokens, info.completion_tokens) == (10, 20)


def test_ps_calls_an_app_by_its_name_wherever_its_folder_is() -> None:
    assert make().info().app == "diary"


async def test_a_ready_process_shows_whether_it_waits_or_generates() -> None:
    process = make()
    process.state = "READY"
    assert process.visible_state() == "READY"

    process.in_flight["0", 0] = CallInFlight(CALL, anyio.CancelScope())
    assert process.visible_state() == "WAITING"

    process.num_generating = 1
    assert process.visible_state() == "RUNNING"


async def test_one_that_begins_again_has_called_nothing_yet() -> None:
    process = make()
    process.state = "READY"
    process.greeted.set()
    process.next_seq["0"] = 1
    process.in_flight["0", 0] = CallInFlight(CALL, anyio.CancelScope())

    process.begin_again([], (10, 20), 5)

    assert (process.state, process.greeted.is_set()) == ("NEW", False)
    assert (process.next_seq, process.in_flight, process.journaled) == ({}, {}, {})
    assert (process.prompt_tokens, process.completion_tokens) == (10, 20)
    assert process.num_printed_chars == 5


@pytest.mark.parametrize("state", ["NEW", "STOPPED", "ZOMBIE"])
def test_other_states_are_shown_as_they_are(state: str) -> None:
    process = make()
    process.state = state  # type: ignore[assignment]
    process.num_generating = 1

    assert process.visible_state() == state


def test_a_seed_depends_on_the_process_and_the_place_of_the_call() -> None:
    seeds = [make().seed("0", 0), make().seed("0", 1), make().seed("0.1", 0)]
    seeds += [make(pid=2).seed("0", 0), make(salt="pepper").seed("0", 0)]

    assert make().seed("0", 0) == seeds[0]
    assert len(set(seeds)) == 5
    assert all(0 <= seed <= MAX_SEED for seed in seeds)


def test_the_table_finds_who_lives() -> None:
    table, process = ProcessTable(), make(7)

    table.add(process)
    assert (table.get(7), table.get(8), len(table), list(table)) == (process, None, 1, [process])

    table.remove(process)
    assert (table.get(7), len(table)) == (None, 0)


def test_children_are_those_of_one_parent() -> None:
    table = ProcessTable()
    for pid, parent in ((1, None), (2, 1), (3, 1), (4, 2)):
        table.add(make(pid, parent))

    assert [child.pid for child in table.children(1)] == [2, 3]
    assert table.children(4) == []


def test_the_table_may_change_while_it_is_walked() -> None:
    table = ProcessTable()
    for pid in (1, 2, 3):
        table.add(make(pid))

    for process in table:
        table.remove(process)

    assert len(table) == 0


async def test_waiting_for_an_empty_table_ends_with_the_last_process() -> None:
    table, processes = ProcessTable(), [make(1), make(2)]
    for process in processes:
        table.add(process)

    async def end_all() -> None:
        for process in processes:
            await anyio.wait_all_tasks_blocked()
            table.remove(process)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(end_all)
        await table.wait_empty()

    assert len(table) == 0


async def test_an_empty_table_is_not_waited_for() -> None:
    with anyio.fail_after(1):
        await ProcessTable().wait_empty()


def test_a_calls_key_is_the_same_after_a_restart_and_no_other_calls() -> None:
    calls = [("0", 0), ("0", 1), ("0.1", 0)]
    keys = {make().call_key(*call) for call in calls}

    assert keys == {make().call_key(*call) for call in calls}
    assert len(keys | {make(2).call_key("0", 0), make(salt="other").call_key("0", 0)}) == 5


async def test_who_cancels_a_call_first_decides_whether_its_app_gave_it_up() -> None:
    given_up, ended = (CallInFlight(CALL, anyio.CancelScope()) for _ in range(2))

    given_up.abandon()
    given_up.cancel()
    ended.cancel()
    ended.abandon()

    assert (given_up.is_abandoned, ended.is_abandoned) == (True, False)
