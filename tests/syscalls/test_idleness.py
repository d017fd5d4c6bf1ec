"""An app knows whether anything but a reply can make it go on."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import anyio
import pytest
from anyio import to_thread

from llmos.syscalls.idleness import AppLoop, is_idle

Main = Callable[[], Coroutine[Any, Any, object]]


def run(main: Main, loop: type[asyncio.SelectorEventLoop]) -> object:
    return anyio.run(main, backend_options={"loop_factory": loop})


async def look_beside(begin: Main) -> tuple[bool, bool]:
    """Whether the app is idle while something is under way, and when that was given up."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(begin)
        await anyio.wait_all_tasks_blocked()
        during = is_idle()
        tasks.cancel_scope.cancel()
    return during, is_idle()


async def wait_with_a_timeout() -> None:
    with anyio.move_on_after(1000):
        await anyio.Event().wait()


async def wait_with_asyncios_timeout() -> None:
    async with asyncio.timeout(1000):
        await asyncio.Event().wait()


@pytest.mark.parametrize(
    "begin",
    [partial(anyio.sleep, 1000), wait_with_a_timeout, wait_with_asyncios_timeout],
    ids=["sleep", "anyio timeout", "asyncio timeout"],
)
def test_an_app_with_a_timer_is_not_idle_until_that_is_given_up(
    begin: Main,
) -> None:
    assert run(partial(look_beside, begin), AppLoop) == (False, True)


def test_an_app_that_waits_for_a_reply_is_idle() -> None:
    assert run(partial(look_beside, anyio.Event().wait), AppLoop) == (True, True)


def test_a_timer_that_has_fired_is_none() -> None:
    async def main() -> bool:
        await anyio.sleep(0.001)
        return is_idle()

    assert run(main, AppLoop) is True


def test_work_in_a_thread_is_no_idleness() -> None:
    async def main() -> tuple[bool, bool]:
        done = threading.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(to_thread.run_sync, done.wait))
            await anyio.wait_all_tasks_blocked()
            during = is_idle()
            done.set()
        return during, is_idle()

    assert run(main, AppLoop) == (False, True)


def test_a_loop_that_does_not_know_says_no() -> None:
    assert run(partial(look_beside, anyio.Event().wait), asyncio.SelectorEventLoop) == (
        False,
        False,
    )
