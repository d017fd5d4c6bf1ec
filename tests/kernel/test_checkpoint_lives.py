"""Processes that begin anew as OS processes: each life is a fresh one, with what it was given."""

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from llmos.kernel.config import Config
from llmos.kernel.machine import Machine
from llmos.kernel.main import boot
from llmos.kernel.process import Process
from llmos.kernel.protocol import Logged
from llmos.memory.journal import load, read_output

from .conftest import MakeApp, start

pytestmark = pytest.mark.anyio


@pytest.fixture
async def machine(config: Config) -> AsyncIterator[Machine]:
    async with boot(config) as machine:
        yield machine


async def finish(process: Process) -> tuple[str, str]:
    """Wait for the end: status and result."""
    with anyio.fail_after(20):
        await process.ended.wait()
    assert process.exit is not None
    return process.exit.status, process.exit.result


async def test_every_life_has_its_arguments_and_an_os_process_of_its_own(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    body = """
    number = int(words[0])
    await sys_.print(number, len(globals().setdefault("LIVES", [])))
    LIVES.append(number)
    if number < 3:
        await sys_.checkpoint(str(number + 1))
    return f"ended in life {number}"
    """

    process = await start(machine, make_app("counter", body), tmp_path, "1")

    assert await finish(process) == ("exited", "ended in life 3")
    assert await read_output(machine.db, process.pid) == "1 0\n2 0\n3 0\n"
    assert [row.name for row in await load(machine.db, process.pid)] == ["checkpoint", "print"]
    assert process.spec.argv == ("3",)


async def test_main_unwinds_and_calls_in_it_are_refused(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    body = """
    if words:
        return open("cleaned").read()
    try:
        await sys_.checkpoint("again")
    finally:
        with anyio.CancelScope(shield=True):
            try:
                await sys_.print("never")
            except Exception as error:
                open("cleaned", "w").write(type(error).__name__)
    """

    process = await start(machine, make_app("tidy", body), tmp_path)

    assert await finish(process) == ("exited", "E_CANCELLED")
    assert await read_output(machine.db, process.pid) == ""


async def test_a_branch_may_ask_for_it_and_others_end(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    body = """
    if words:
        return "anew"
    async def idle():
        await anyio.sleep_forever()
    async def renew():
        await sys_.checkpoint("again")
    sys_.start(idle())
    await sys_.gather(idle(), renew())
    """

    process = await start(machine, make_app("branches", body), tmp_path)

    assert await finish(process) == ("exited", "anew")


async def test_an_app_that_does_not_go_is_cut_off_and_begins_anew(
    config: Config, make_app: MakeApp, tmp_path: Path
) -> None:
    body = """
    if words:
        return "anew"
    try:
        await sys_.checkpoint("again")
    finally:
        time.sleep(1000)
    """
    hasty = config.__class__(home=config.home, model="echo", kill_grace_seconds=0.2)
    async with boot(hasty) as machine:
        process = await start(machine, make_app("stuck", body), tmp_path)

        assert await finish(process) == ("exited", "anew")


async def test_a_process_that_is_killed_on_the_way_stays_dead(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    body = """
    try:
        await sys_.checkpoint("again")
    finally:
        print("leaving", flush=True)
        time.sleep(1000)
    """
    process = await start(machine, make_app("doomed", body), tmp_path)
    with anyio.fail_after(20):
        assert isinstance(await process.terminal.next_event(), Logged)
        machine.launcher.signal(process, "KILL")

    assert (await finish(process))[0] == "killed"
    assert process.spec.argv == ()
