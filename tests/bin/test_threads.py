"""Blocking calls in threads."""

import os
import subprocess
import sys

import anyio
import pytest

from llmos.bin.threads import call_in_thread

from .conftest import SOURCE

pytestmark = pytest.mark.anyio
SILENT = """
import os, anyio
from functools import partial
from llmos.bin.threads import call_in_thread

async def main():
    with anyio.move_on_after(0.1):
        await call_in_thread(partial(os.read, 0, 1))

anyio.run(main)
"""


async def test_what_it_returns_is_returned() -> None:
    assert await call_in_thread(os.getpid) == os.getpid()


async def test_its_error_is_raised() -> None:
    with pytest.raises(FileNotFoundError):
        await call_in_thread(lambda: os.stat("/nowhere"))


async def test_a_caller_may_leave() -> None:
    read_end, write_end = os.pipe()
    with anyio.move_on_after(0.05) as scope:
        await call_in_thread(lambda: os.read(read_end, 1))

    assert scope.cancelled_caught
    os.close(write_end)


def test_a_program_ends_while_a_thread_waits_for_a_silent_pipe() -> None:
    environ = os.environ | {"PYTHONPATH": str(SOURCE)}
    with subprocess.Popen(
        [sys.executable, "-c", SILENT], env=environ, stdin=subprocess.PIPE
    ) as program:
        assert program.wait(20) == 0
