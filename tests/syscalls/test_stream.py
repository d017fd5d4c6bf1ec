"""A socket as a byte stream: bytes arrive, and its end is named."""

import socket
from collections.abc import AsyncIterator

import anyio
import pytest

from llmos.syscalls.errors import E_FRAME
from llmos.syscalls.stream import BytesOnlyStream, SocketStream

pytestmark = pytest.mark.anyio
LARGE = b"x" * (4 << 20)


@pytest.fixture
async def ends() -> AsyncIterator[tuple[SocketStream, SocketStream]]:
    ours, theirs = socket.socketpair()
    here, there = await SocketStream.adopt(ours), await SocketStream.adopt(theirs)
    yield here, there
    await here.aclose()
    await there.aclose()


async def read_all(stream: SocketStream) -> bytes:
    data = b""
    try:
        while True:
            data += await stream.receive()
    except anyio.EndOfStream:
        return data


async def test_bytes_arrive(ends: tuple[SocketStream, SocketStream]) -> None:
    here, there = ends

    await here.send(b"hello")

    assert await there.receive() == b"hello"


async def test_no_more_is_received_than_is_asked_for(
    ends: tuple[SocketStream, SocketStream],
) -> None:
    here, there = ends
    await here.send(b"hello")

    assert await there.receive(2) == b"he"
    assert await there.receive(10) == b"llo"


async def test_more_than_the_sockets_buffer_arrives_whole(
    ends: tuple[SocketStream, SocketStream],
) -> None:
    here, there = ends
    received: list[bytes] = []

    async def read() -> None:
        received.append(await read_all(there))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await here.send(LARGE)
        await here.aclose()

    assert received == [LARGE]


async def test_a_sender_waits_for_a_reader_but_a_close_not_for_ever(
    ends: tuple[SocketStream, SocketStream],
) -> None:
    here, _ = ends

    with anyio.move_on_after(0.05) as scope:
        await here.send(LARGE)
    with anyio.fail_after(20):
        await here.aclose()

    assert scope.cancelled_caught


async def test_the_other_ends_close_is_the_end_of_the_stream(
    ends: tuple[SocketStream, SocketStream],
) -> None:
    here, there = ends
    await here.send(b"last")
    await here.aclose()

    assert await there.receive() == b"last"
    with pytest.raises(anyio.EndOfStream):
        await there.receive()


async def test_sending_to_nobody_is_a_broken_stream(
    ends: tuple[SocketStream, SocketStream],
) -> None:
    here, there = ends
    await there.aclose()

    with pytest.raises((anyio.BrokenResourceError, anyio.ClosedResourceError)):
        await here.send(LARGE)


async def test_sending_after_closing_is_named(ends: tuple[SocketStream, SocketStream]) -> None:
    here, _ = ends
    await here.aclose()

    with pytest.raises(anyio.ClosedResourceError):
        await here.send(b"x")


async def test_what_came_before_descriptors_is_read_and_then_they_are_named() -> None:
    ours, theirs = socket.socketpair()
    stream = await BytesOnlyStream.adopt(ours)
    with theirs:
        theirs.send(b"first")
        assert await stream.receive() == b"first"

        socket.send_fds(theirs, [b"second"], [theirs.fileno()])

        with pytest.raises(E_FRAME, match="descriptors"):
            await stream.receive()
        await stream.send(b"goodbye")
        assert theirs.recv(100) == b"goodbye"
    await stream.aclose()


async def test_a_stream_of_bytes_alone_ends_like_any_other() -> None:
    ours, theirs = socket.socketpair()
    stream = await BytesOnlyStream.adopt(ours)
    theirs.close()

    with pytest.raises(anyio.EndOfStream):
        await stream.receive()
    await stream.aclose()
