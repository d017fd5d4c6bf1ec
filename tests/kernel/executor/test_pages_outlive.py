"""The pages of a process that waits for a person outlive the executor's death."""

import os
from contextlib import aclosing
from pathlib import Path
from signal import SIGKILL

import anyio.lowlevel
import pytest

from llmos.kernel.drivers.driver import Finished, GenerationJob
from llmos.kernel.drivers.local import LocalDriver
from llmos.kernel.executor.pagefile import find_page_files
from llmos.syscalls.types import Message, Sampling, Usage

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def run(driver: LocalDriver) -> Usage:
    messages = (Message("user", "Tell me a story about the fox and the cat. " * 6),)
    job = GenerationJob(messages, sampling=Sampling(max_tokens=2, temperature=0.0, seed=1), pid=7)
    async for event in driver.generate(job):
        if isinstance(event, Finished):
            return event.usage
    raise AssertionError("no Finished")


async def test_what_was_hinted_at_is_read_by_the_next_executor(qwen3: Path, tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    driver = LocalDriver(str(qwen3), log=tmp_path / "log", page_folder=pages)
    async with aclosing(driver):
        driver.hint(7, "person")  # nothing runs yet: no matter
        first = await run(driver)
        driver.hint(7, "person")
        with anyio.fail_after(20):
            while len(find_page_files(pages)) < first.prompt_tokens // 16:
                await anyio.lowlevel.checkpoint()
        assert driver.process_id
        os.kill(driver.process_id, SIGKILL)
        second = await run(driver)

    assert (first.cached_tokens, second.prompt_tokens) == (0, first.prompt_tokens)
    assert second.cached_tokens == (first.prompt_tokens - 1) // 16 * 16
