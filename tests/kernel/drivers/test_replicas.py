"""Replicas: which one a job goes to, and what becomes of one that cannot be started."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import pytest

from llmos.kernel.drivers.driver import (
    EmbedJob,
    Finished,
    GenerationJob,
    Grant,
    ModelInfo,
    ScoreJob,
    Wait,
)
from llmos.kernel.drivers.echo import EchoDriver
from llmos.kernel.drivers.replicas import (
    MAX_HOMES,
    MUCH_BUSIER_FACTOR,
    MUCH_BUSIER_MARGIN,
    Homes,
    ReplicatedDriver,
    choose_replica,
)
from llmos.syscalls.errors import E_MODEL
from llmos.syscalls.types import Message

pytestmark = pytest.mark.anyio
PLACES = (Grant("cuda:0"), Grant("cuda:1"))


def test_a_job_without_a_home_goes_to_the_least_busy() -> None:
    assert choose_replica([2, 1, 3], None) == 1
    assert choose_replica([0, 0], None) == 0


def test_a_job_goes_home_unless_home_is_much_busier() -> None:
    assert choose_replica([MUCH_BUSIER_MARGIN, 0], 0) == 0
    assert choose_replica([MUCH_BUSIER_MARGIN + 1, 0], 0) == 1
    limit = MUCH_BUSIER_FACTOR * 10 + MUCH_BUSIER_MARGIN
    assert choose_replica([limit, 10], 0) == 0
    assert choose_replica([limit + 1, 10], 0) == 1


def test_a_child_begins_where_its_root_is_and_a_moved_process_stays_where_it_went() -> None:
    homes = Homes()

    homes.put(1, 1, 0)
    assert (homes.find(1, 1), homes.find(2, 1), homes.find(3, 3)) == (0, 0, None)
    homes.put(2, 1, 1)
    assert (homes.find(2, 1), homes.find(1, 1), homes.find(4, 1)) == (1, 0, 0)
    homes.forget(2)
    assert homes.find(2, 1) == 0


def test_homes_are_bounded() -> None:
    homes = Homes()

    for pid in range(MAX_HOMES + 10):
        homes.put(pid, pid, 1)

    assert (homes.find(9, 9), homes.find(10, 10)) == (None, 1)


class Place(EchoDriver):
    """Answers as echo does, and remembers what it was asked."""

    def __init__(self, failing: str = "") -> None:
        super().__init__()
        self.process_ids = (1,)
        self.device = ""
        self.failing = failing
        self.heard: list[object] = []

    async def start(self, grants: tuple[Grant, ...] = (Grant(),)) -> ModelInfo:
        (grant,) = grants
        self.device = grant.device
        if grant.device == self.failing:
            raise E_MODEL(f"no room on {grant.device}")
        return ModelInfo("echo", "echo", grant.device, "none", 0, 100, "echo-1")

    def hint(self, pid: int, kind: Wait, expected_idle_seconds: float | None = None) -> None:
        self.heard.append((pid, kind))

    async def unload(self) -> None:
        self.heard.append("unload")


def build(failing: str = "") -> tuple[ReplicatedDriver, list[Place]]:
    places: list[Place] = []

    def make() -> Place:
        places.append(Place(failing))
        return places[-1]

    return ReplicatedDriver(make), places


def job(pid: int, root: int | None = None, text: str = "a b") -> GenerationJob:
    return GenerationJob((Message("user", text),), pid=pid, root=pid if root is None else root)


async def run(driver: ReplicatedDriver, one: GenerationJob) -> str:
    items = [item async for item in driver.generate(one)]
    assert isinstance(items[-1], Finished)
    return items[-1].text


async def test_there_is_a_driver_for_every_place_and_each_can_do_everything() -> None:
    driver, places = build()

    info = await driver.start(PLACES)

    assert [place.device for place in places] == ["cuda:0", "cuda:1"]
    assert info.device == "cuda:0, cuda:1"
    assert await run(driver, job(1)) == "a b"
    scored = await driver.score(ScoreJob((Message("user", "a"),), ("yes",), pid=1, root=1))
    embedded = await driver.embed(EmbedJob(("yes",), pid=1, root=1))
    assert (len(scored.tokens), len(embedded.vectors)) == (1, 1)


@asynccontextmanager
async def under_way(driver: ReplicatedDriver, *jobs: GenerationJob) -> AsyncIterator[list[int]]:
    """These jobs, begun one after another and held; how many of them each replica has."""
    for one in jobs:
        driver.pause(one.pid)
    async with anyio.create_task_group() as tasks:
        for one in jobs:
            tasks.start_soon(run, driver, one)
            await anyio.wait_all_tasks_blocked()
        yield count_jobs(driver)
        for one in jobs:
            driver.resume(one.pid)


def count_jobs(driver: ReplicatedDriver) -> list[int]:
    return [replica.num_jobs for replica in driver.replicas]


async def test_jobs_side_by_side_are_spread_and_counted_until_they_end() -> None:
    driver, _ = build()
    await driver.start(PLACES)

    async with under_way(driver, job(1), job(2)) as num_jobs:
        assert num_jobs == [1, 1]

    assert count_jobs(driver) == [0, 0]


async def test_a_family_of_processes_stays_together() -> None:
    driver, _ = build()
    await driver.start(PLACES)

    async with under_way(driver, job(1), job(3, root=1)) as num_jobs:
        assert num_jobs == [2, 0]


async def test_a_generation_that_is_given_up_is_counted_no_more() -> None:
    driver, _ = build()
    await driver.start(PLACES)

    deltas = driver.generate(job(1))
    await anext(deltas)
    assert count_jobs(driver) == [1, 0]
    await deltas.aclose()

    assert count_jobs(driver) == [0, 0]


async def test_a_job_does_not_go_where_no_executor_runs_while_there_is_another() -> None:
    driver, places = build()
    await driver.start(PLACES)
    await run(driver, job(1))
    places[0].process_ids = ()

    for pid in (1, 2, 3):
        async with under_way(driver, job(pid)) as num_jobs:
            assert num_jobs == [0, 1]
    places[1].process_ids = ()

    assert await run(driver, job(4)) == "a b"


async def test_a_place_that_fails_is_done_without() -> None:
    driver, _ = build(failing="cuda:0")

    info = await driver.start(PLACES)

    assert (info.device, len(driver.replicas)) == ("cuda:1", 1)
    assert await run(driver, job(1)) == "a b"


async def test_where_every_place_fails_the_reason_is_told() -> None:
    driver, _ = build(failing="cuda:0")

    with pytest.raises(E_MODEL, match="no room on cuda:0"):
        await driver.start(PLACES[:1])
    with pytest.raises(E_MODEL, match="not loaded"):
        await run(driver, job(1))


async def test_a_process_that_was_paused_before_is_held_on_new_replicas() -> None:
    driver, _ = build()
    driver.pause(1)
    await driver.start(PLACES)
    texts: list[str] = []

    async def read() -> None:
        texts.append(await run(driver, job(1)))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        assert texts == []
        driver.resume(1)
    assert texts == ["a b"]


async def test_all_replicas_hear_hints_and_leave_together() -> None:
    driver, places = build()
    await driver.start(PLACES)

    driver.hint(1, "person")
    driver.hint(1, "gone")
    await driver.unload()

    assert [place.heard for place in places] == [[(1, "person"), (1, "gone"), "unload"]] * 2
    assert driver.process_ids == ()
    await driver.start(PLACES)
    assert len(places) == 4


async def test_a_start_that_is_cancelled_leaves_nothing() -> None:
    closed: list[str] = []

    class Slow(Place):
        async def start(self, grants: tuple[Grant, ...] = (Grant(),)) -> ModelInfo:
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.wait_all_tasks_blocked()  # as a process is waited for
                    closed.append("process")
            raise AssertionError

        async def aclose(self) -> None:
            closed.append("driver")

    make: Callable[[], Slow] = Slow
    driver = ReplicatedDriver(make)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(driver.start, PLACES)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()

    assert closed == ["process"] * 2 + ["driver"] * 2


async def test_a_start_that_is_cancelled_closes_the_places_that_were_ready_too() -> None:
    closed: list[str] = []

    class Uneven(Place):
        async def start(self, grants: tuple[Grant, ...] = (Grant(),)) -> ModelInfo:
            info = await super().start(grants)
            if self.device == "cuda:1":
                await anyio.sleep_forever()
            return info

        async def aclose(self) -> None:
            closed.append(self.device)

    driver = ReplicatedDriver(Uneven)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(driver.start, PLACES)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()

    assert closed == ["cuda:0", "cuda:1"]
    assert driver.process_ids == ()
