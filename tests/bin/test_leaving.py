"""Whether the person has left, and what ends then."""

import os
import signal

import anyio
import pytest

from llmos.bin.leaving import Leaving, Left
from llmos.syscalls.tasks import running

pytestmark = pytest.mark.anyio


async def test_a_signal_ends_the_clients_part_and_nothing_else() -> None:
    leaving = Leaving()
    async with running() as tasks:
        tasks.start_soon(leaving.watch)
        with anyio.fail_after(10), anyio.CancelScope() as client:
            leaving.ends(client)
            await anyio.wait_all_tasks_blocked()
            os.kill(os.getpid(), signal.SIGHUP)
            await anyio.sleep_forever()

    assert client.cancelled_caught
    with pytest.raises(Left) as caught:
        leaving.check()
    assert caught.value.exit_code == 129


async def test_who_leaves_before_the_client_is_there_ends_it_at_once() -> None:
    leaving = Leaving()
    async with running() as tasks:
        tasks.start_soon(leaving.watch)
        await anyio.wait_all_tasks_blocked()
        os.kill(os.getpid(), signal.SIGTERM)
        with anyio.fail_after(10):
            while not leaving.is_told:  # noqa: ASYNC110 - nobody tells
                await anyio.sleep(0.01)

    client = anyio.CancelScope()
    leaving.ends(client)

    assert client.cancel_called


async def test_who_stays_has_not_left() -> None:
    Leaving().check()
