"""The local driver, with a real executor process and a tiny random model."""

import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from llmos.kernel.drivers.driver import Finished, GenerationJob, TextDelta
from llmos.kernel.drivers.local import LocalDriver
from llmos.syscalls.errors import E_CONTEXT, E_MODEL
from llmos.syscalls.types import Message, Sampling

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


def make_job(text: str, num_tokens: int, *, pid: int = 1, seed: int = 3) -> GenerationJob:
    sampling = Sampling(max_tokens=num_tokens, temperature=0.8, seed=seed)
    return GenerationJob((Message("user", text),), sampling=sampling, pid=pid)


async def read_all(driver: LocalDriver, job: GenerationJob) -> tuple[str, Finished]:
    text = ""
    async for event in driver.generate(job):
        if isinstance(event, Finished):
            return text, event
        text += event.text
    raise AssertionError("no Finished")


@pytest.fixture
async def driver(qwen3: Path, tmp_path: Path) -> AsyncIterator[LocalDriver]:
    driver = LocalDriver(str(qwen3), log=tmp_path / "executor.log")
    yield driver
    await driver.aclose()


async def test_a_generation_streams_its_text_and_finishes(driver: LocalDriver) -> None:
    info = await driver.start()
    text, finished = await read_all(driver, make_job("hello", 8))

    assert (info.driver, info.dtype, info.max_model_len) == ("local", "float32", 512)
    assert text == finished.text
    assert 0 < finished.usage.completion_tokens <= 8


async def test_a_request_past_the_window_is_refused_and_the_next_one_runs(
    driver: LocalDriver,
) -> None:
    with pytest.raises(E_CONTEXT, match="512"):
        await read_all(driver, make_job("word " * 2000, 8))

    assert (await read_all(driver, make_job("hello", 2)))[1].usage.prompt_tokens > 0


async def test_a_closed_generation_leaves_the_driver_usable(driver: LocalDriver) -> None:
    async with contextlib.aclosing(driver.generate(make_job("hello", 400))) as events:
        assert isinstance(await anext(events), TextDelta)

    assert (await read_all(driver, make_job("hello", 2)))[0]


async def test_a_paused_process_waits_while_others_go_on(driver: LocalDriver) -> None:
    driver.pause(7)
    texts: dict[int, str] = {}

    async def run(pid: int) -> None:
        texts[pid] = (await read_all(driver, make_job("hello", 4, pid=pid)))[0]

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, 7)
        await run(8)
        assert 7 not in texts
        driver.resume(7)

    assert texts[7] == texts[8]


async def test_a_killed_executor_is_replaced_and_no_text_comes_twice(driver: LocalDriver) -> None:
    job = make_job("tell me more", 300)
    whole, _ = await read_all(driver, job)
    text = ""

    async for event in driver.generate(job):
        if isinstance(event, TextDelta):
            if not text and driver.process_id:
                os.kill(driver.process_id, signal.SIGKILL)
            text += event.text

    assert text == whole


async def test_an_executor_that_dies_twice_is_an_error_with_the_way_it_died(
    driver: LocalDriver,
) -> None:
    async def kill_at_every_word() -> None:
        async for _ in driver.generate(make_job("tell me more", 400, seed=5)):
            if driver.process_id:
                os.kill(driver.process_id, signal.SIGKILL)

    with pytest.raises(E_MODEL, match="signal 9"):
        await kill_at_every_word()


async def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    driver = LocalDriver(str(tmp_path / "nowhere"), log=tmp_path / "executor.log")

    with pytest.raises(E_MODEL, match=r"no folder .*; fix:"):
        await driver.start()
