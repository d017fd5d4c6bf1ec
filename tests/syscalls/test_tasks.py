"""Background tasks end with the body, and its exceptions come out as they are."""

import anyio
import pytest

from llmos.syscalls.tasks import running, side_by_side

pytestmark = pytest.mark.anyio


async def test_tasks_are_cancelled_when_the_body_ends() -> None:
    ended = anyio.Event()

    async def wait() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async with running() as tasks:
        tasks.start_soon(wait)
        await anyio.lowlevel.checkpoint()

    assert ended.is_set()


async def test_an_exception_of_the_body_comes_out_bare() -> None:
    async def body() -> None:
        async with running() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await body()


async def test_an_exception_of_a_task_ends_the_body() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    async def body() -> None:
        async with running() as tasks:
            tasks.start_soon(fail)
            await anyio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        await body()

    assert [type(error) for error in caught.value.exceptions] == [ZeroDivisionError]


async def test_a_task_group_of_the_callers_is_used() -> None:
    own = anyio.create_task_group()

    async with running(own) as tasks:
        assert tasks is own


async def test_a_cancel_from_outside_ends_the_body_and_its_tasks() -> None:
    reached = False

    with anyio.CancelScope() as scope:
        async with running() as tasks:
            tasks.start_soon(anyio.sleep_forever)
            scope.cancel()
            await anyio.sleep_forever()
        reached = True

    assert scope.cancelled_caught
    assert not reached


async def test_the_first_failure_of_several_ends_the_others_and_comes_out_bare() -> None:
    ended = anyio.Event()

    async def wait() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async def fail() -> None:
        raise ZeroDivisionError

    async def both() -> None:
        async with side_by_side() as tasks:
            tasks.start_soon(wait)
            tasks.start_soon(fail)

    with pytest.raises(ZeroDivisionError):
        await both()

    assert ended.is_set()


async def test_those_side_by_side_are_waited_for() -> None:
    done: list[int] = []

    async def work(number: int) -> None:
        await anyio.lowlevel.checkpoint()
        done.append(number)

    async with side_by_side() as tasks:
        tasks.start_soon(work, 1)
        tasks.start_soon(work, 2)

    assert sorted(done) == [1, 2]
