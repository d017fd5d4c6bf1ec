"""The virtual clock: time moves when it is told to."""

import time

import anyio
import pytest

from llmos.kernel.clock import SystemClock, VirtualClock

pytestmark = pytest.mark.anyio


async def test_advancing_wakes_sleepers_in_order_of_their_deadlines() -> None:
    clock = VirtualClock()
    woken: list[float] = []

    async def sleep(seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(seconds)

    async with anyio.create_task_group() as group:
        for seconds in (3.0, 1.0, 2.0):
            group.start_soon(sleep, seconds)
        await anyio.wait_all_tasks_blocked()
        clock.advance(2.5)
        await anyio.wait_all_tasks_blocked()
        assert woken == [1.0, 2.0]
        clock.advance(0.5)

    assert woken == [1.0, 2.0, 3.0]


async def test_both_readings_move_by_the_same_time() -> None:
    clock = VirtualClock(start=1000.0)

    clock.advance(2.5)

    assert (clock.now(), clock.monotonic()) == (1002.5, 2.5)


async def test_a_sleep_of_nothing_or_less_does_not_wait() -> None:
    clock = VirtualClock()

    await clock.sleep(0)
    await clock.sleep(-1)

    assert clock.monotonic() == 0


async def test_autojump_runs_a_year_in_no_time() -> None:
    clock = VirtualClock()
    started = time.monotonic()

    async with anyio.create_task_group() as group:
        group.start_soon(clock.autojump)
        for _ in range(12):
            await clock.sleep(0.1 + 30 * 86_400)
        group.cancel_scope.cancel()

    assert clock.monotonic() == pytest.approx(360 * 86_400 + 1.2)
    assert time.monotonic() - started < 5


async def test_autojump_goes_to_the_nearest_deadline_first() -> None:
    clock = VirtualClock()
    woken: list[tuple[str, float]] = []

    async def sleep(name: str, seconds: float, times: int) -> None:
        for _ in range(times):
            await clock.sleep(seconds)
            woken.append((name, clock.monotonic()))

    async with anyio.create_task_group() as group:
        group.start_soon(clock.autojump)
        async with anyio.create_task_group() as sleepers:
            sleepers.start_soon(sleep, "slow", 5.0, 1)
            sleepers.start_soon(sleep, "fast", 2.0, 3)
        group.cancel_scope.cancel()

    assert woken == [("fast", 2.0), ("fast", 4.0), ("slow", 5.0), ("fast", 6.0)]


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    clock = VirtualClock()
    async with anyio.create_task_group() as group:
        group.start_soon(clock.sleep, 1.0)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()

    clock.advance(5.0)

    assert clock.monotonic() == 5.0


async def test_the_system_clock_reads_the_machines_time() -> None:
    clock = SystemClock()

    before = clock.monotonic()
    await clock.sleep(-1.0)

    assert clock.now() == pytest.approx(time.time(), abs=60)
    assert clock.monotonic() >= before
