"""A patch in the SDK: who takes its number, and that nothing else of the strand comes between."""

import pytest
from anyio import create_task_group, move_on_after, wait_all_tasks_blocked

from llmos.syscalls.client import System
from llmos.syscalls.errors import E_BUSY
from llmos.syscalls.process import PidReply
from llmos.syscalls.tasks import running
from llmos.syscalls.values import Patch, Patched, Slept

from .conftest import ScriptedKernel

pytestmark = pytest.mark.anyio


async def test_a_patch_that_applies_takes_a_number(system: System, kernel: ScriptedKernel) -> None:
    async with running() as tasks:
        tasks.start_soon(kernel.serve, lambda call: Patched(applies=True))

        assert await system.patch("a") is True
        assert await system.patch("b") is True

    assert [seq for _, seq, _ in kernel.calls] == [0, 1]


async def test_the_number_of_one_that_does_not_apply_is_the_next_calls(
    system: System, kernel: ScriptedKernel
) -> None:
    async with running() as tasks:
        tasks.start_soon(kernel.serve, lambda call: Patched(applies=False))

        assert await system.patch("a") is False
        assert await system.patch("b") is False

    assert [seq for _, seq, _ in kernel.calls] == [0, 0]


async def test_a_patch_says_how_many_branches_its_strand_has_begun(
    system: System, kernel: ScriptedKernel
) -> None:
    asked: list[Patch] = []

    def script(call: Patch | object) -> PidReply | Patched:
        if not isinstance(call, Patch):
            return PidReply(1)
        asked.append(call)
        return Patched(applies=True)

    async with running() as tasks:
        tasks.start_soon(kernel.serve, script)
        await system.patch("a")
        await system.gather(system.getpid(), system.getpid())
        await system.patch("a")

    assert asked == [Patch("a", 0), Patch("a", 2)]


async def test_a_patch_is_refused_while_a_call_of_its_strand_is_under_way(
    system: System, kernel: ScriptedKernel
) -> None:
    async with create_task_group() as tasks:
        tasks.start_soon(system.sleep, 1.0)
        request = await kernel.receive_call()

        with pytest.raises(E_BUSY, match=r"strand 0 at once; fix: ") as caught:
            await system.patch("a")

        await kernel.reply(request, Slept())
    assert caught.value.field == "strand"
    assert kernel.calls == [("0", 0, "sleep")]


async def test_a_call_is_refused_while_a_patch_of_its_strand_is_under_way(
    system: System, kernel: ScriptedKernel
) -> None:
    answers: list[bool] = []

    async def patch() -> None:
        answers.append(await system.patch("a"))

    async with create_task_group() as tasks:
        tasks.start_soon(patch)
        request = await kernel.receive_call()
        for make in (system.getpid, lambda: system.patch("b")):
            with pytest.raises(E_BUSY, match=r"sys\.patch and another call"):
                await make()
        await kernel.reply(request, Patched(applies=False))

    async with running() as tasks:
        tasks.start_soon(kernel.serve, lambda call: PidReply(7))
        await system.getpid()
    assert answers == [False]
    assert kernel.calls == [("0", 0, "patch"), ("0", 0, "getpid")]


async def test_other_strands_go_on_beside_a_patch(system: System, kernel: ScriptedKernel) -> None:
    async with running() as tasks:
        branch = system.start(system.sleep(1.0))
        asleep = await kernel.receive_call()
        tasks.start_soon(kernel.serve, lambda call: Patched(applies=True))

        assert await system.patch("a")

        await kernel.reply(asleep, Slept())
        await branch


async def test_a_cancel_waits_until_it_is_known_who_has_the_number(
    system: System, kernel: ScriptedKernel
) -> None:
    async def answer() -> None:
        request = await kernel.receive_call()
        await wait_all_tasks_blocked()
        await kernel.reply(request, Patched(applies=False))
        await kernel.serve(lambda call: PidReply(7))

    async with running() as tasks:
        tasks.start_soon(answer)
        with move_on_after(0):
            await system.patch("a")
        await system.getpid()

    assert kernel.calls == [("0", 0, "patch"), ("0", 0, "getpid")]
