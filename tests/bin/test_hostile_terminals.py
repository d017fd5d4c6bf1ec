"""Several terminals on one state directory, at the moments when a kernel comes or goes."""

import fcntl
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest
from anyio.abc import TaskGroup

from llmos.bin.connection import KernelGone, reach_kernel, retry_once
from llmos.kernel.config import Config, load_config
from llmos.kernel.protocol import Ended, ReadStatus, Run, StatusReply, ToTerminal

pytestmark = pytest.mark.anyio


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_config({"LLMOS_HOME": str(tmp_path / "home"), "LLMOS_MODEL": "echo"})


def failing(times: int) -> Callable[[], Awaitable[str]]:
    """An attempt that finds the kernel gone so many times."""
    attempts = iter(range(times))

    async def attempt() -> str:
        if next(attempts, None) is not None:
            raise KernelGone("the kernel went away")
        return "done"

    return attempt


async def test_a_kernel_that_was_just_leaving_is_reached_anew() -> None:
    assert await retry_once(failing(1)) == "done"


async def test_a_kernel_that_goes_away_twice_is_an_error() -> None:
    with pytest.raises(KernelGone):
        await retry_once(failing(2))


async def test_a_terminal_takes_over_when_another_ones_kernel_has_left(config: Config) -> None:
    async def leave() -> None:
        await anyio.sleep(0.3)
        fcntl.flock(lock, fcntl.LOCK_UN)

    with config.lock.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(leave)
            async with reach_kernel(config) as connection:
                status = await connection.request(ReadStatus(), StatusReply)

    assert status.num_processes == 0


async def test_a_terminal_that_fails_harms_no_other_terminal(
    config: Config, tmp_path: Path
) -> None:
    ask = Run("ask", ("!slow 100 one two three four five",), str(tmp_path))
    heard: list[ToTerminal] = []

    async def watch() -> None:
        async with reach_kernel(config) as connection:
            await connection.send(ask)
            while not isinstance(event := await connection.receive(), Ended):
                heard.append(event)
            heard.append(event)

    async def fail(tasks: TaskGroup) -> None:
        async with reach_kernel(config):
            tasks.start_soon(watch)
            await anyio.sleep(0.5)
            raise BrokenPipeError

    async with anyio.create_task_group() as tasks:
        with pytest.raises(ExceptionGroup):
            await fail(tasks)

    ended = heard[-1]
    assert isinstance(ended, Ended)
    assert ended.exit.status == "exited"
