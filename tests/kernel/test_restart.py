"""Restart policies: what goes on after its main is over, from where, and after how long."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import anyio
import pytest

from llmos.kernel.listing import list_processes
from llmos.kernel.machine import Machine
from llmos.kernel.main import boot
from llmos.kernel.manifest import RestartPolicy
from llmos.kernel.protocol import Notice
from llmos.kernel.restart import GOOD_RUN_SECONDS, MAX_WAIT_SECONDS, Restart, plan_restart
from llmos.memory.db import Connection
from llmos.memory.journal import load, read_output
from llmos.memory.processes import ProcessRecord
from llmos.syscalls.wire import Exit

from .conftest import MakeApp, start
from .sleeping import finish, load_sleepy, read_record, wait_asleep

pytestmark = pytest.mark.anyio
RETURNED, RAISED, USAGE = Exit(0, "done"), Exit(1), Exit(2)


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    async with boot(load_sleepy(tmp_path)) as machine:
        yield machine


def make_record(num_restarts: int = 0, restarted_at: float | None = None) -> ProcessRecord:
    return ProcessRecord(
        1, None, "a", "local", "echo", "NEW", None, None, 0.0, None, 0, 0, b"", None,
        num_restarts, restarted_at,
    )  # fmt: skip


def make_restarting(make_app: MakeApp, tmp_path: Path, policy: str, body: str) -> str:
    app = make_app("worker", body)
    manifest = tmp_path / "worker" / "app.toml"
    text = manifest.read_text().replace("[app]", f'[app]\nrestart = "{policy}"')
    manifest.write_text(text)
    return app


@pytest.mark.parametrize(
    ("policy", "ending", "goes_on"),
    [
        ("never", None, None),
        ("never", RAISED, None),
        ("on-failure", None, "from its journal"),
        ("on-failure", RAISED, "anew"),
        ("on-failure", RETURNED, None),
        ("on-failure", USAGE, None),
        ("always", None, "from its journal"),
        ("always", RAISED, "anew"),
        ("always", RETURNED, "anew"),
        ("always", USAGE, None),
    ],
)
def test_the_policy_decides(
    policy: RestartPolicy, ending: Exit | None, goes_on: str | None
) -> None:
    plan = plan_restart(policy, ending, make_record(), 1.0)

    how = None if plan is None else "anew" if plan.is_anew else "from its journal"
    assert how == goes_on


def test_each_wait_is_twice_the_one_before_up_to_a_cap() -> None:
    plans = [plan_restart("always", None, make_record(n, 0.0), 1.0) for n in (0, 1, 2, 50)]

    assert [plan and plan.wait_seconds for plan in plans] == [1.0, 2.0, 4.0, MAX_WAIT_SECONDS]
    assert plans[1] == Restart(False, 2.0, 2)


def test_a_long_run_begins_the_count_anew() -> None:
    plan = plan_restart("always", None, make_record(7, 100.0), 100.0 + GOOD_RUN_SECONDS)

    assert plan == Restart(False, 1.0, 1)


async def test_an_os_process_that_dies_goes_on_from_its_journal(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    body = """
    await sys_.print("first")
    if not os.path.exists("died"):
        open("died", "w").close()
        os._exit(1)
    await sys_.print("second")
    """
    app = make_restarting(make_app, tmp_path, "on-failure", body)
    process = await start(machine, app, tmp_path)
    await wait_asleep(machine, process.pid)
    (info,) = (await list_processes(machine, 10)).processes

    assert [wait.kind for wait in info.waits] == ["restart"]
    assert (await finish(process))[0] == "exited"
    assert await read_output(machine.db, process.pid) == "first\nsecond\n"
    await process.terminal.next_event()
    event = await process.terminal.next_event()
    assert isinstance(event, Notice)
    assert event.text == f"process {process.pid} crashed; it goes on from its journal in 1 s"


async def test_a_main_that_raises_begins_anew(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    body = """
    await sys_.print("again")
    if not os.path.exists("raised"):
        open("raised", "w").close()
        raise KeyError("x")
    return await sys_.random()
    """
    app = make_restarting(make_app, tmp_path, "on-failure", body)
    process = await start(machine, app, tmp_path)

    assert (await finish(process))[0] == "exited"

    assert await read_output(machine.db, process.pid) == "again\nagain\n"
    rows = await load(machine.db, process.pid)
    assert [row.seq for row in rows if row.strand == "0"] == [0, 1]
    assert (await read_record(machine, process.pid)).num_restarts == 1


async def test_what_begins_anew_has_nothing_of_the_generations_before(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    body = """
    import asyncio
    beside = asyncio.ensure_future(sys_.generate("!slow 20 " + "word " * 500))
    await anyio.sleep(0.8)
    raise KeyError("x")
    """
    app = make_restarting(make_app, tmp_path, "on-failure", body)
    process = await start(machine, app, tmp_path)

    await wait_asleep(machine, process.pid)

    for table in ("journal", "chunk"):
        query = f"SELECT count(*) FROM {table} WHERE pid = ? AND strand = '0'"
        assert await machine.db.read(partial(count_rows, query=query, pid=process.pid)) == 0


def count_rows(connection: Connection, query: str, pid: int) -> int:
    return int(connection.exec_driver_sql(query, (pid,)).scalar_one())


async def test_without_a_policy_a_crash_is_the_end(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    process = await start(machine, make_app("worker", "os._exit(1)"), tmp_path)

    assert (await finish(process))[0] == "failed"


async def test_a_kill_ends_it_for_good_also_between_two_runs(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    app = make_restarting(make_app, tmp_path, "always", "os._exit(1)")
    process = await start(machine, app, tmp_path)
    await wait_asleep(machine, process.pid)

    assert await machine.launcher.deliver(process.pid, "TERM")

    assert (await finish(process))[0] == "killed"
    with anyio.move_on_after(1.2):
        await machine.table.wait_changed()
    assert len(machine.table) == 0
