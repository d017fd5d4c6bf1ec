"""Branches that run on beside their parent: strands, results, errors, cancels, and their end."""

import gc
from collections.abc import Callable

import pytest
from anyio import Event, create_task_group, fail_after, sleep_forever, wait_all_tasks_blocked
from anyio.lowlevel import checkpoint

from llmos.syscalls.branch import Branch
from llmos.syscalls.client import System
from llmos.syscalls.errors import E_ARG, E_CANCELLED, E_TOOL
from llmos.syscalls.process import PidReply
from llmos.syscalls.tasks import running
from llmos.syscalls.values import RandomNumber
from llmos.syscalls.wire import Cancel, Joined

from .conftest import ScriptedKernel

pytestmark = pytest.mark.anyio


def say_pid(call: object) -> PidReply:
    return PidReply(7)


async def give(value: int) -> int:
    await checkpoint()
    return value


async def test_a_branch_runs_on_and_is_awaited_later(
    system: System, kernel: ScriptedKernel
) -> None:
    async with running() as tasks:
        tasks.start_soon(kernel.serve, say_pid)
        branch = system.start(system.getpid())
        await system.getpid()
        await system.getpid()

        assert await branch == 7

    assert sorted(kernel.calls) == [("0", 0, "getpid"), ("0", 1, "getpid"), ("0.1", 0, "getpid")]


async def test_branches_are_numbered_in_program_order_together_with_gathered_ones(
    system: System, kernel: ScriptedKernel
) -> None:
    async def two_more() -> None:
        await system.start(system.getpid())
        await system.gather(system.getpid())

    async with running() as tasks:
        tasks.start_soon(kernel.serve, say_pid)
        first, second = system.start(system.getpid()), system.start(two_more())
        await system.gather(system.getpid())
        await second
        await first

    assert {strand for strand, _, _ in kernel.calls} == {"0.1", "0.2.1", "0.2.2", "0.3"}


async def test_which_branch_ends_first_does_not_matter(
    system: System, kernel: ScriptedKernel
) -> None:
    async def answer_backwards() -> None:
        requests = [await kernel.receive_call() for _ in range(3)]
        for request in reversed(requests):
            await kernel.reply(request, RandomNumber(int(request.strand[-1]) / 10))

    async with create_task_group() as tasks:
        tasks.start_soon(answer_backwards)
        branches = [system.start(system.random()) for _ in range(3)]
        numbers = [await branch for branch in branches]

    assert numbers == [0.1, 0.2, 0.3]


async def test_an_error_comes_out_where_the_branch_is_awaited_each_time(system: System) -> None:
    async def fail() -> None:
        raise E_TOOL("broken")

    branch = system.start(fail())
    await wait_all_tasks_blocked()

    for _ in range(2):
        with pytest.raises(E_TOOL, match="broken"):
            await branch


async def test_a_result_is_given_as_often_as_it_is_asked_for(system: System) -> None:
    branch = system.start(give(3))

    assert [await branch, await branch] == [3, 3]
    assert await system.gather(branch, give(4)) == [3, 4]


async def test_a_cancelled_branch_says_so_to_the_kernel_and_to_who_awaits_it(
    system: System, kernel: ScriptedKernel
) -> None:
    branch = system.start(system.sleep(1000.0))
    request = await kernel.receive_call()

    branch.cancel()

    assert await kernel.receive() == Cancel(request.strand, request.seq)
    with pytest.raises(E_CANCELLED, match=r"branch 0\.1 was cancelled"):
        await branch
    branch.cancel()


async def test_who_stops_waiting_does_not_stop_the_branch(system: System) -> None:
    release = Event()

    async def wait() -> int:
        await release.wait()
        return 5

    branch = system.start(wait())
    with pytest.raises(TimeoutError), fail_after(0):
        await branch
    release.set()

    assert await branch == 5


async def test_a_branch_cleans_up_when_it_is_cancelled(system: System) -> None:
    cleaned = Event()

    async def work() -> None:
        try:
            await sleep_forever()
        finally:
            cleaned.set()

    branch = system.start(work())
    await wait_all_tasks_blocked()
    branch.cancel()
    await branch.wait_ended()

    assert cleaned.is_set()


async def test_a_branch_that_awaits_itself_is_told(system: System) -> None:
    branches: list[Branch[None]] = []

    async def wait_for_myself() -> None:
        await branches[0]

    branches.append(system.start(wait_for_myself()))

    with pytest.raises(E_ARG, match="awaits itself"):
        await branches[0]


@pytest.mark.parametrize("make", [lambda: give, lambda: 5, lambda: None, lambda: [give]])
async def test_what_is_no_coroutine_is_refused(system: System, make: Callable[[], object]) -> None:
    with pytest.raises(E_ARG, match=r"fix: .*sys\.start\(work\(\)\)") as caught:
        system.start(make())  # type: ignore[arg-type]

    assert caught.value.field == "coroutine"


async def test_a_coroutine_that_has_begun_is_refused(system: System) -> None:
    work = give(1)
    await work

    with pytest.raises(E_ARG, match="that has not begun"):
        system.start(work)


async def test_the_end_of_main_ends_branches_and_those_that_they_start(system: System) -> None:
    async def start_another() -> None:
        try:
            await sleep_forever()
        finally:
            system.start(sleep_forever())

    branch, done = system.start(start_another()), system.start(give(1))
    await wait_all_tasks_blocked()

    await system.end_branches()

    with pytest.raises(E_CANCELLED):
        await branch
    assert await done == 1


async def test_branches_that_nobody_awaits_leave_no_warning(system: System) -> None:
    for _ in range(3):
        system.start(give(1))
    await wait_all_tasks_blocked()
    system.start(sleep_forever()).cancel()
    await system.end_branches()

    gc.collect()  # a warning would be an error here


async def test_a_branch_that_has_ended_is_told_when_the_next_one_begins(
    system: System, kernel: ScriptedKernel
) -> None:
    async with running() as tasks:
        tasks.start_soon(kernel.serve, say_pid)
        for _ in range(3):
            await system.start(system.getpid())
        await system.getpid()

    assert kernel.joined == [Joined("0", 1), Joined("0", 2)]


async def test_a_branch_that_runs_keeps_its_strand_open(
    system: System, kernel: ScriptedKernel
) -> None:
    release = Event()

    async def call_later() -> int:
        await release.wait()
        return await system.getpid()

    async with running() as tasks:
        tasks.start_soon(kernel.serve, say_pid)
        branch = system.start(call_later())
        await system.gather(system.getpid())
        await system.gather(system.getpid())
        release.set()
        assert await branch == 7

    assert kernel.joined == []
    assert kernel.calls[-1] == ("0.1", 0, "getpid")
