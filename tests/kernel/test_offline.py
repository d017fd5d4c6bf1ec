"""An offline replay is answered by its journal alone, and names the call that is not in it."""

from functools import partial
from pathlib import Path

import pytest

from llmos.kernel.clock import VirtualClock
from llmos.kernel.journal import Journal, digest_call
from llmos.kernel.limits import JournalLimits
from llmos.kernel.machine import Machine
from llmos.kernel.models import Models
from llmos.kernel.protocol import Divergence, ReplayReport
from llmos.syscalls.client import System
from llmos.syscalls.errors import E_LIMIT, E_TOOL, SyscallError
from llmos.syscalls.tasks import running
from llmos.syscalls.values import Now

from .conftest import read_rows
from .replays import read_everything, replay, run_once, run_until

pytestmark = pytest.mark.anyio


async def main(system: System) -> str:
    """A bit of everything that an app does."""
    number = await system.random()
    context = await system.context("Be brief.")
    answer = await context.generate(f"number {number}")
    await context.user(answer.text)
    await system.tool("write_file", path="out.txt", content=answer.text)
    await system.remember(answer.text)
    await system.print(answer.text)
    branches = [system.generate(f"branch {n}") for n in range(3)]
    texts = [one.text for one in await system.gather(*branches)]
    await system.sleep(0)
    return " ".join(texts)


async def replay_main(machine: Machine, workspace: Path, changed: object = main) -> ReplayReport:
    process = await run_once(machine, workspace, main)
    return await replay(machine, process, changed)  # type: ignore[arg-type]


def found(report: ReplayReport) -> Divergence:
    assert report.divergence is not None
    return report.divergence


async def test_the_same_app_makes_the_same_calls(machine: Machine, tmp_path: Path) -> None:
    report = await replay_main(machine, tmp_path)

    assert report == ReplayReport(report.pid, 11, 11, False, False, None)


async def test_a_replay_writes_nothing_and_has_no_effect(machine: Machine, tmp_path: Path) -> None:
    process = await run_once(machine, tmp_path, main)
    before = await read_everything(machine)
    (tmp_path / "out.txt").unlink()

    await replay(machine, process, main)

    await machine.db.flush()
    assert await read_everything(machine) == before
    assert not (tmp_path / "out.txt").exists()


async def test_a_replay_needs_no_model(machine: Machine, tmp_path: Path) -> None:
    process = await run_once(machine, tmp_path, main)
    machine.models = Models(machine.config, machine.clock)

    await replay(machine, process, main)

    assert machine.models.loaded() == ()


async def test_other_arguments_are_named_with_both_digests(
    machine: Machine, tmp_path: Path
) -> None:
    async def changed(system: System) -> None:
        await system.random()
        await system.context("Be long.")

    report = await replay_main(machine, tmp_path, changed)

    at = found(report)
    assert (at.step, at.number) == ("0:1", 2)
    assert (at.expected, at.came) == ("context_create", "context_create")
    assert at.expected_digest != at.came_digest
    assert "Be long." in (at.came_arguments or "")
    assert report.num_replayed == 1


async def test_another_call_is_named(machine: Machine, tmp_path: Path) -> None:
    async def changed(system: System) -> None:
        await system.now()

    at = found(await replay_main(machine, tmp_path, changed))

    assert (at.step, at.expected, at.came) == ("0:0", "random", "now")
    assert at.came_digest == digest_call(Now()).hex()


async def test_one_call_more_is_named(machine: Machine, tmp_path: Path) -> None:
    async def changed(system: System) -> str:
        text = await main(system)
        await system.now()
        return text

    at = found(await replay_main(machine, tmp_path, changed))

    assert (at.step, at.number, at.expected, at.came) == ("0:8", None, None, "now")


@pytest.mark.parametrize(
    "name",
    ["print", "generate", "remember", "write_file", "ask", "tool", "spawn", "recall"],
)
async def test_no_call_that_the_journal_lacks_is_performed(
    machine: Machine, tmp_path: Path, name: str
) -> None:
    async def changed(system: System) -> str:
        text = await main(system)
        match name:
            case "print" | "generate" | "remember" | "ask" | "recall":
                await getattr(system, name)("x")
            case "write_file":
                await system.write_file("more.txt", "x")
            case "tool":
                await system.tool("write_file", path="more.txt", content="x")
            case "spawn":
                await system.spawn("ask", "x")
        return text

    process = await run_once(machine, tmp_path, main)
    before = await read_everything(machine)

    at = found(await replay(machine, process, changed))

    await machine.db.flush()
    assert (at.step, at.came) == ("0:8", name)
    assert await read_everything(machine) == before
    assert not (tmp_path / "more.txt").exists()


async def test_an_app_that_ends_early_is_named_with_the_call_that_is_missing(
    machine: Machine, tmp_path: Path
) -> None:
    async def changed(system: System) -> None:
        await system.random()

    at = found(await replay_main(machine, tmp_path, changed))

    assert (at.step, at.number, at.expected, at.came) == ("0:1", 2, "context_create", None)
    assert "ended before" in at.why


async def test_another_result_is_another_end(machine: Machine, tmp_path: Path) -> None:
    async def changed(system: System) -> str:
        return await main(system) + "!"

    at = found(await replay_main(machine, tmp_path, changed))

    assert at.step is None
    assert "exit code 0 and 'branch 0 branch 1 branch 2'" in at.why
    assert "branch 2!'" in at.why


async def test_calls_that_were_refused_are_refused_again(machine: Machine, tmp_path: Path) -> None:
    async def refused(system: System) -> list[str]:
        codes = []
        for call in (
            lambda: system.recall("x", space="secret"),
            lambda: system.generate("x", temperature=9.0),
            lambda: system.generate("x", tool_choice="required"),
            lambda: system.tool("nonsense"),
            lambda: system.tool("calculator", expression="1 / 0"),
            lambda: system.generate([], context=99),
        ):
            try:
                await call()
            except SyscallError as error:
                codes.append(error.code)
        await system.print("done")
        return [*codes, str(await system.getpid())]

    process = await run_once(machine, tmp_path, refused)

    report = await replay(machine, process, refused)

    assert report.divergence is None
    names = [row.name for row in await read_rows(machine, process)]
    assert names == ["tool", "print"]


async def test_a_patched_app_replays_an_old_journal(machine: Machine, tmp_path: Path) -> None:
    async def app(system: System, is_new: bool) -> None:
        await system.random()
        if is_new and await system.patch("look at the clock"):
            await system.now()
        await system.print("done")

    old, new = partial(app, is_new=False), partial(app, is_new=True)
    process = await run_once(machine, tmp_path, old)

    report = await replay(machine, process, new)

    assert (report.num_replayed, report.divergence) == (2, None)
    assert (await replay(machine, await run_once(machine, tmp_path, new), new)).divergence is None


async def test_a_call_that_a_full_journal_refused_is_refused_again(
    machine: Machine, tmp_path: Path
) -> None:
    machine.journal = Journal(machine.db, machine.clock, JournalLimits(max_rows=2))

    async def filling(system: System) -> str:
        await system.now()
        await system.now()
        try:
            await system.now()
        except E_LIMIT:
            return "full"
        return "no"

    process = await run_once(machine, tmp_path, filling)

    assert (await replay(machine, process, filling)).divergence is None


async def test_an_error_that_ended_an_app_ends_it_again(machine: Machine, tmp_path: Path) -> None:
    async def failing(system: System) -> None:
        await system.print("so far")
        await system.tool("calculator", expression="1 / 0")

    process = await run_once(machine, tmp_path, failing)

    assert (await replay(machine, process, failing)).divergence is None


async def test_a_failing_branch_ends_the_others_where_it_did(
    machine: Machine, tmp_path: Path
) -> None:
    async def fail_late(system: System) -> None:
        await system.generate("!slow 20 some words")
        await system.tool("calculator", expression="1 / 0")

    async def work(system: System) -> None:
        while True:
            await system.now()

    async def racing(system: System) -> str:
        try:
            await system.gather(fail_late(system), work(system))
        except E_TOOL:
            return "failed"
        return "no"

    process = await run_once(machine, tmp_path, racing)
    num_calls = len(await read_rows(machine, process))

    report = await replay(machine, process, racing)

    assert num_calls > 4
    assert report.num_replayed >= num_calls - 1
    assert report.divergence is None


async def test_an_unfinished_journal_may_end_under_its_app(
    machine: Machine, tmp_path: Path
) -> None:
    async def cut_off(system: System) -> str:
        await system.random()
        await system.now()
        return "so far"

    process = await run_once(machine, tmp_path, cut_off, is_ended=False)

    async def going_on(system: System) -> str:
        await cut_off(system)
        await system.generate("more")
        return "all"

    report = await replay(machine, process, going_on)

    assert report == ReplayReport(process.pid, 2, 2, True, False, None)


async def test_a_call_that_had_no_answer_has_none_now(machine: Machine, tmp_path: Path) -> None:
    async def sleeping(system: System) -> None:
        await system.now()
        await system.sleep(1000)
        raise AssertionError("nobody wakes it")

    process = await run_until(machine, tmp_path, sleeping, "sleep")

    report = await replay(machine, process, sleeping)

    assert report == ReplayReport(process.pid, 2, 2, True, False, None)


async def test_a_call_that_had_no_answer_must_be_the_same(machine: Machine, tmp_path: Path) -> None:
    async def sleeping(system: System) -> None:
        await system.sleep(1000)

    async def changed(system: System) -> None:
        await system.sleep(2000)

    process = await run_until(machine, tmp_path, sleeping, "sleep")

    at = found(await replay(machine, process, changed))

    assert (at.step, at.expected, at.came) == ("0:0", "sleep", "sleep")


async def test_a_branch_that_is_ended_may_make_a_call_more_or_less(
    machine: Machine, tmp_path: Path
) -> None:
    async def fail(system: System, after: int) -> None:
        for _ in range(after):
            await system.now()
        await system.tool("calculator", expression="1 / 0")

    async def race(system: System, num_calls: int) -> str:
        async def work() -> None:
            for _ in range(num_calls):
                await system.random()
            await system.sleep(1000)

        try:
            await system.gather(fail(system, 3), work())
        except E_TOOL:
            return "failed"
        return "no"

    for num_calls in (0, 2, 5):
        process = await run_once(machine, tmp_path, partial(race, num_calls=num_calls))

        report = await replay(machine, process, partial(race, num_calls=num_calls))

        assert report.divergence is None


async def test_an_app_that_waits_for_ever_where_its_journal_goes_on_is_named(
    machine: Machine, tmp_path: Path
) -> None:
    async def three(system: System) -> None:
        await system.gather(*(system.generate(f"branch {n}") for n in range(3)))
        await system.print("after")

    async def four(system: System) -> None:
        await system.gather(*(system.generate(f"branch {n}") for n in range(4)))
        await system.print("after")

    process = await run_once(machine, tmp_path, three, is_ended=False)
    clock = machine.clock = VirtualClock()

    async with running() as tasks:
        tasks.start_soon(clock.autojump)
        at = found(await replay(machine, process, four))

    assert (at.step, at.number, at.expected, at.came) == ("0:0", 4, "print", None)
    assert "waits" in at.why
