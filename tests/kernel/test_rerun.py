"""A replay's app runs in an OS process of its own, whatever state its process is in."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from llmos.kernel.config import Config
from llmos.kernel.machine import Machine
from llmos.kernel.main import boot
from llmos.memory.journal import load
from llmos.syscalls.errors import E_ARG, E_STORAGE

from .conftest import MakeApp, prepare, record, start
from .replays import read_everything
from .test_launch import finish

pytestmark = pytest.mark.anyio
BODY = """
number = await sys_.random()
await sys_.generate("one two")
await sys_.print("said", words)
return f"{number} {await sys_.getpid()}"
"""


@pytest.fixture
async def machine(config: Config) -> AsyncIterator[Machine]:
    async with boot(config) as machine:
        yield machine


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_an_ended_process_runs_again_to_the_same_end(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    process = await start(machine, make_app("app", BODY), tmp_path, "a", "b")
    await finish(process)
    before = await read_everything(machine)

    report = await machine.launcher.replay(process.pid)

    assert (report.num_calls, report.num_replayed, report.divergence) == (3, 3, None)
    await machine.db.flush()
    assert await read_everything(machine) == before


async def test_a_changed_app_diverges_and_is_said_to_be_changed(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    process = await start(machine, make_app("app", BODY), tmp_path)
    await finish(process)
    code = tmp_path / "app" / "code.py"
    code.write_text(code.read_text().replace('"said"', '"shouted"'))

    report = await machine.launcher.replay(process.pid)

    assert report.divergence is not None
    assert (report.divergence.step, report.has_other_code) == ("0:2", True)


async def test_a_running_process_is_replayed_beside_itself(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    body = "await sys_.print('up')\nawait sys_.sleep(1000)"
    process = await start(machine, make_app("app", body), tmp_path)
    while len(await load(machine.db, process.pid)) < 2:
        await anyio.lowlevel.checkpoint()

    report = await machine.launcher.replay(process.pid)

    assert (report.num_replayed, report.is_unfinished, report.divergence) == (2, True, None)
    assert machine.table.get(process.pid) is process
    assert process.visible_state() == "WAITING"


async def test_a_process_that_was_left_behind_is_replayed(
    config: Config, make_app: MakeApp, tmp_path: Path
) -> None:
    async with boot(config) as machine:
        body = "await sys_.print('up')\nawait sys_.sleep(1000)"
        process = await start(machine, make_app("app", body), tmp_path)
        while len(await load(machine.db, process.pid)) < 2:
            await anyio.lowlevel.checkpoint()

    async with boot(config) as machine:
        report = await machine.launcher.replay(process.pid)

    assert (report.num_replayed, report.is_unfinished, report.divergence) == (2, True, None)


async def test_a_crash_is_the_same_end_as_the_same_crash(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    process = await start(machine, make_app("app", "raise RuntimeError('boom')"), tmp_path)
    await finish(process)
    same = await machine.launcher.replay(process.pid)
    code = tmp_path / "app" / "code.py"
    code.write_text(code.read_text().replace("boom", "a bang"))  # another size: .pyc files

    other = await machine.launcher.replay(process.pid)

    assert same.divergence is None
    assert other.divergence is not None
    assert "RuntimeError: a bang" in other.divergence.why


async def test_a_process_is_replayed_from_its_checkpoint_on(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    body = "if not words: await sys_.checkpoint('again')\nawait sys_.print(*words)\nreturn 'done'"
    process = await start(machine, make_app("app", body), tmp_path)
    assert (await finish(process))[2] == "done"

    report = await machine.launcher.replay(process.pid)

    assert (report.num_calls, report.num_replayed, report.divergence) == (1, 1, None)


async def test_a_killed_process_is_replayed_as_far_as_it_came(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    body = "await sys_.print('up')\nawait sys_.sleep(1000)"
    process = await start(machine, make_app("app", body), tmp_path)
    await process.terminal.next_event()
    machine.launcher.signal(process, "KILL")
    await finish(process)

    report = await machine.launcher.replay(process.pid)

    assert (report.is_unfinished, report.divergence) == (True, None)


async def test_nothing_is_left_of_a_replay(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    process = await start(machine, make_app("app", BODY), tmp_path)
    await finish(process)
    await machine.launcher.replay(process.pid)
    num_descriptors = open_descriptors()

    for _ in range(3):
        await machine.launcher.replay(process.pid)

    assert open_descriptors() == num_descriptors
    assert len(machine.table) == 0


async def test_a_person_who_goes_away_ends_a_replay_that_does_not(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    process = await start(machine, make_app("app", "while words: time.sleep(1)"), tmp_path)
    await finish(process)
    code = tmp_path / "app" / "code.py"
    code.write_text(code.read_text().replace("while words", "while True"))

    with anyio.move_on_after(0.5) as scope:
        await machine.launcher.replay(process.pid)

    assert scope.cancelled_caught


async def test_what_cannot_be_replayed_is_named(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    app = make_app("app", BODY)
    process = await start(machine, app, tmp_path)
    await finish(process)
    with pytest.raises(E_ARG, match="there is no process 99"):
        await machine.launcher.replay(99)
    await machine.db.write(
        lambda c: c.exec_driver_sql("UPDATE journal SET result = x'00' WHERE seq = 1").rowcount
    )

    with pytest.raises(E_STORAGE, match=f"call {process.pid}/0/1 is damaged"):
        await machine.launcher.replay(process.pid)
    other = await record(machine, prepare(machine, app, tmp_path))
    assert (await machine.launcher.replay(other)).divergence is None
    (tmp_path / "app" / "app.toml").unlink()
    with pytest.raises(E_ARG, match=r"no app\.toml"):
        await machine.launcher.replay(other)
