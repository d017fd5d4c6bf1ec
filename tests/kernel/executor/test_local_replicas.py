"""Several executors on this machine's processor: of one model, of two, and one that leaves."""

import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from llmos.kernel.clock import SystemClock
from llmos.kernel.config import Config
from llmos.kernel.devices import HOST, Device
from llmos.kernel.drivers.driver import Finished, GenerationJob, Grant
from llmos.kernel.drivers.local import LocalDriver
from llmos.kernel.drivers.replicas import ReplicatedDriver
from llmos.kernel.executor.pagefile import find_page_files
from llmos.kernel.models import Models
from llmos.syscalls.errors import E_MODEL
from llmos.syscalls.types import Message, Sampling

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
STORY = "Tell me a story about the fox and the cat. " * 6


def make_job(pid: int, root: int, num_tokens: int = 2, text: str = STORY) -> GenerationJob:
    sampling = Sampling(max_tokens=num_tokens, temperature=0.0, seed=1)
    return GenerationJob((Message("user", text),), sampling=sampling, pid=pid, root=root)


async def finish(driver: LocalDriver | ReplicatedDriver, job: GenerationJob) -> Finished:
    async for event in driver.generate(job):
        if isinstance(event, Finished):
            return event
    raise AssertionError("no Finished")


@pytest.fixture
async def driver(qwen3: Path, tmp_path: Path) -> AsyncIterator[ReplicatedDriver]:
    replicated = ReplicatedDriver(lambda: LocalDriver(str(qwen3), log=tmp_path / "log"))
    async with aclosing(replicated):
        await replicated.start((Grant("cpu", 4 << 20), Grant("cpu", 4 << 20)))
        yield replicated


async def test_a_process_finds_its_pages_again_and_its_children_do_and_a_stranger_does_not(
    driver: ReplicatedDriver,
) -> None:
    assert len(set(driver.process_ids)) == 2
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(finish, driver, make_job(9, 9, 60, text="Hi"))
        while not driver.replicas[0].num_jobs:
            await anyio.lowlevel.checkpoint()
        first = await finish(driver, make_job(1, 1))  # beside the one that is busy

    again = await finish(driver, make_job(1, 1))
    child = await finish(driver, make_job(2, 1))
    stranger = await finish(driver, make_job(5, 5))

    assert (first.usage.cached_tokens, stranger.usage.cached_tokens) == (0, 0)
    assert again.usage.cached_tokens == child.usage.cached_tokens > 100
    assert {one.text for one in (first, again, child, stranger)} == {first.text}


async def test_an_executor_that_leaves_has_put_away_the_pages_of_who_waits(
    qwen3: Path, tmp_path: Path
) -> None:
    pages = tmp_path / "pages"
    driver = LocalDriver(str(qwen3), log=tmp_path / "log", page_folder=pages)
    async with aclosing(driver):
        first = await finish(driver, make_job(7, 7))
        process_id = driver.process_id
        driver.hint(7, "person")
        await driver.unload()
        num_kept = len(find_page_files(pages))
        assert driver.process_id is None
        assert process_id
        with pytest.raises(ProcessLookupError):
            os.kill(process_id, 0)

        second = await finish(driver, make_job(7, 7))  # loaded again by itself

    num_full = (first.usage.prompt_tokens - 1) // 16
    assert num_kept >= num_full
    assert second.usage.cached_tokens == num_full * 16
    assert second.text == first.text


async def test_an_executor_that_is_killed_at_once_has_not(qwen3: Path, tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    driver = LocalDriver(str(qwen3), log=tmp_path / "log", page_folder=pages)
    async with aclosing(driver):
        first = await finish(driver, make_job(7, 7))
        driver.hint(7, "person")

    assert len(find_page_files(pages)) < (first.usage.prompt_tokens - 1) // 16


async def test_two_models_take_turns_on_a_device_that_holds_one(
    qwen3: Path, tmp_path: Path
) -> None:
    def find_devices() -> tuple[Device, ...]:
        return (Device(HOST, "a small host", 400 << 20, 400 << 20),)

    config = Config(home=tmp_path)
    async with aclosing(Models(config, SystemClock(), find_devices=find_devices)) as models:
        async with models.using("demo", lambda: None) as driver:
            process_ids = driver.process_ids
        with pytest.raises(E_MODEL, match="wait until demo is idle"):
            async with models.using("demo", lambda: None):
                await models.load(str(qwen3))
        await models.load(str(qwen3))
        loaded = models.loaded()
        for process_id in process_ids:
            with pytest.raises(ProcessLookupError):
                os.kill(process_id, 0)
        async with models.using("demo", lambda: None) as driver:
            items = [item async for item in driver.generate(make_job(1, 1))]

    assert (len(process_ids), loaded) == (1, (str(qwen3),))
    assert isinstance(items[-1], Finished)
