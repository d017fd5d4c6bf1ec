"""The client's side of the control socket."""

from pathlib import Path

import anyio
import pytest

from llmos.bin.connection import try_connect
from llmos.kernel.config import Config
from llmos.kernel.protocol import KillReply, ListProcesses, ReadStatus, Refused, StatusReply
from llmos.syscalls.errors import E_ARG, E_KERNEL, ErrorReply
from llmos.syscalls.process import Signalled

from .conftest import connected

pytestmark = pytest.mark.anyio
STATUS = StatusReply(1, "0", "/home", 0.0, 0, ())


async def test_a_request_gets_its_answer() -> None:
    async with connected() as (connection, kernel):
        await kernel.say(STATUS)

        assert await connection.request(ReadStatus(), StatusReply) == STATUS
        assert await kernel.hear() == ReadStatus()


async def test_a_refusal_is_raised_as_its_error() -> None:
    async with connected() as (connection, kernel):
        await kernel.say(Refused(ErrorReply("E_ARG", "too many", "limit")))

        with pytest.raises(E_ARG, match="too many"):
            await connection.request(ListProcesses(), StatusReply)


async def test_an_answer_of_another_kind_is_a_fault_of_the_kernel() -> None:
    async with connected() as (connection, kernel):
        await kernel.say(KillReply(Signalled(True)))

        with pytest.raises(E_KERNEL, match="KillReply"):
            await connection.request(ReadStatus(), StatusReply)


async def test_a_kernel_that_goes_away_is_an_error() -> None:
    async with connected() as (connection, kernel):
        await kernel.aclose()

        with pytest.raises(E_KERNEL, match="went away"):
            await connection.receive()


async def test_no_socket_means_no_kernel(tmp_path: Path) -> None:
    assert await try_connect(Config(home=tmp_path)) is None


async def test_a_socket_that_a_dead_kernel_left_means_no_kernel(tmp_path: Path) -> None:
    config = Config(home=tmp_path)
    listener = await anyio.create_unix_listener(config.socket)
    await listener.aclose()

    assert config.socket.exists()
    assert await try_connect(config) is None
