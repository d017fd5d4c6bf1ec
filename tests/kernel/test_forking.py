"""A fork has made another process's first calls, and goes on as a process of its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import msgspec
import pytest

from llmos.kernel.config import Config
from llmos.kernel.listing import decode_spec
from llmos.kernel.machine import Machine
from llmos.kernel.main import boot
from llmos.kernel.process import Process
from llmos.kernel.terminal import Terminal
from llmos.memory import contexts, processes
from llmos.memory.journal import load, read_output
from llmos.syscalls.errors import E_ARG, E_PERM

from .conftest import MakeApp, start
from .test_launch import finish

pytestmark = pytest.mark.anyio
TALK = """
number = await sys_.random()
context = await sys_.context("Be brief.")
await sys_.print("begun")
answer = await context.generate("one two three four")
await context.user(answer.text)
again = await context.generate("five six seven eight")
await context.user(again.text)
await sys_.print(answer.text, "/", again.text)
return f"{number}"
"""


@pytest.fixture
async def machine(config: Config) -> AsyncIterator[Machine]:
    async with boot(config) as machine:
        yield machine


async def fork(machine: Machine, pid: int, at: int, **changes: object) -> Process:
    options = {"model": None, "sampling": {}} | changes
    return await machine.launcher.fork(pid, at, Terminal(), **options)  # type: ignore[arg-type]


@pytest.fixture
async def talked(machine: Machine, make_app: MakeApp, tmp_path: Path) -> Process:
    """A process that has ended after eight calls."""
    process = await start(machine, make_app("talk", TALK), tmp_path)
    await finish(process)
    return process


async def test_a_fork_repeats_no_call_of_its_prefix(machine: Machine, talked: Process) -> None:
    forked = await fork(machine, talked.pid, 4)

    assert (await finish(forked))[2] == talked.exit.result  # type: ignore[union-attr]
    theirs, ours = await load(machine.db, talked.pid), await load(machine.db, forked.pid)
    assert [msgspec.structs.replace(row, pid=talked.pid) for row in ours[:4]] == theirs[:4]
    assert [row.name for row in ours] == [row.name for row in theirs]
    assert ours[4].started_at > theirs[7].started_at
    assert await read_output(machine.db, forked.pid) == await read_output(machine.db, talked.pid)


async def test_a_forks_contexts_are_its_own(machine: Machine, talked: Process) -> None:
    forked = await fork(machine, talked.pid, 5)
    await finish(forked)

    async def lengths(pid: int) -> dict[int, int]:
        return await machine.db.read(lambda c: contexts.count_messages(c, pid))

    assert await lengths(forked.pid) == await lengths(talked.pid) == {1: 3}


async def test_sampling_is_overridden_from_the_step_on(machine: Machine, talked: Process) -> None:
    forked = await fork(machine, talked.pid, 4, sampling={"max_tokens": 2})

    await finish(forked)

    output = await read_output(machine.db, forked.pid)
    assert output == "begun\none two three four / five six\n"
    assert forked.completion_tokens == 4 + 2


async def test_a_fork_of_a_fork_keeps_what_was_overridden(
    machine: Machine, talked: Process
) -> None:
    first = await fork(machine, talked.pid, 0, sampling={"max_tokens": 2})
    await finish(first)

    second = await fork(machine, first.pid, 0, sampling={"temperature": 0.5})
    await finish(second)

    assert second.spec.sampling == {"max_tokens": 2, "temperature": 0.5}
    assert "one two / five six" in await read_output(machine.db, second.pid)


async def test_another_model_generates_from_the_step_on(machine: Machine, talked: Process) -> None:
    forked = await fork(machine, talked.pid, 4, model="no-such-model")

    assert (await finish(forked))[:2] == ("failed", 4)
    assert forked.error is not None
    assert "no-such-model" in forked.error.message
    rows = await load(machine.db, forked.pid)
    assert [row.state for row in rows[3:]] == ["DONE", "DONE", "FAILED"]


async def test_a_fork_can_be_taken_from_a_process_that_runs(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    body = "await sys_.print('up')\nawait sys_.sleep(0.2)\nreturn await sys_.uuid()"
    process = await start(machine, make_app("runs", body), tmp_path)
    await process.terminal.next_event()
    while len(await load(machine.db, process.pid)) < 2:
        await anyio.lowlevel.checkpoint()

    forked = await fork(machine, process.pid, 2)

    assert (await finish(process))[2] != (await finish(forked))[2]
    assert await read_output(machine.db, forked.pid) == "up\n"


async def test_a_fork_survives_its_kernel(
    config: Config, make_app: MakeApp, tmp_path: Path
) -> None:
    body = "await sys_.print('up')\nawait sys_.sleep(0.5)\nreturn 'done'"
    app = make_app("sleeps", body)
    async with boot(config) as machine:
        process = await start(machine, app, tmp_path)
        await finish(process)
        forked = await fork(machine, process.pid, 1)
        while len(await load(machine.db, forked.pid)) < 2:
            await anyio.lowlevel.checkpoint()

    async with boot(config) as machine:
        again = await machine.launcher.resume(forked.pid, Terminal())

        assert (await finish(again))[2] == "done"


@pytest.mark.parametrize(
    ("at", "changes", "field"),
    [
        (9, {}, "at"),
        (4, {"sampling": {"temperature": 9}}, "sampling.temperature"),
        (4, {"sampling": {"heat": 1}}, "sampling.heat"),
    ],
)
async def test_what_cannot_be_is_refused_and_makes_no_process(
    machine: Machine, talked: Process, at: int, changes: dict[str, object], field: str
) -> None:
    with pytest.raises(E_ARG) as caught:
        await fork(machine, talked.pid, at, **changes)

    assert caught.value.field == field
    assert len(await processes.list(machine.db)) == 1


async def test_an_unknown_process_has_no_forks(machine: Machine) -> None:
    with pytest.raises(E_ARG, match="there is no process 99"):
        await fork(machine, 99, 0)


async def test_another_tenants_process_is_not_forked(machine: Machine, talked: Process) -> None:
    await processes.update(machine.db, talked.pid, tenant="others")

    with pytest.raises(E_PERM, match="another tenant"):
        await fork(machine, talked.pid, 0)


async def test_an_app_that_is_gone_is_named(
    machine: Machine, talked: Process, tmp_path: Path
) -> None:
    (tmp_path / "talk" / "app.toml").unlink()

    with pytest.raises(E_ARG, match=r"no app\.toml in .*talk"):
        await fork(machine, talked.pid, 0)


async def test_a_child_that_is_waited_for_is_not_taken_along(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    child = make_app("child", "await sys_.sleep(1000)")
    body = f"await sys_.print('up')\nawait sys_.wait(await sys_.spawn({child!r}))"
    parent = await start(machine, make_app("parent", body), tmp_path)
    while len(await load(machine.db, parent.pid)) < 3:
        await anyio.lowlevel.checkpoint()

    with pytest.raises(E_ARG, match=r"call 3 .* waits for a child.*; fix: --at 2") as caught:
        await fork(machine, parent.pid, 3)

    assert caught.value.field == "at"


async def test_a_childs_end_that_was_heard_is_taken_along(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    child = make_app("child", "return 'from the child'")
    body = f"return (await sys_.wait(await sys_.spawn({child!r}))).result"
    parent = await start(machine, make_app("parent", body), tmp_path)
    await finish(parent)

    heard, unheard = [await fork(machine, parent.pid, at) for at in (2, 1)]

    assert (await finish(heard))[2] == "from the child"
    assert (await finish(unheard))[:2] == ("failed", 6)
    assert "not a child of this one" in unheard.error.message  # type: ignore[union-attr]
    record = await processes.get(machine.db, heard.pid)
    assert record is not None
    assert decode_spec(record).salt != parent.spec.salt
