"""A socket as a byte stream: bytes arrive, and its end is named."""

import socket
from collections.abc import AsyncIterator

import anyio
import pytest

from llmos.syscalls.errors import E_FRAME
from llmos.syscalls.stream import MAX_BUFFERED_BYTES, BytesOnlyStream, SocketStream

pytestmark = pytest.mark.anyio
LARGE = b"x" * (4 << 20)
MOST_READ_AT_ONCE = 256 << 10  # by asyncio


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


async def test_no_more_is_held_than_a_bound_while_the_reader_is_slow(
    ends: tuple[SocketStream, SocketStream],
) -> None:
    here, there = ends

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(here.send, LARGE)
        for _ in range(50):
            await there.receive(1000)
            await anyio.wait_all_tasks_blocked()
            assert len(there._received) <= MAX_BUFFERED_BYTES + MOST_READ_AT_ONCE
        tasks.cancel_scope.cancel()


async def test_a_receiver_that_stops_waiting_loses_nothing(
    ends: tuple[SocketStream, SocketStream],
) -> None:
    here, there = ends

    with anyio.move_on_after(0):
        await there.receive()
    await here.send(b"late")

    assert await there.receive() == b"late"


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


async def test_descriptors_that_lie_in_the_socket_already_are_named() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        socket.send_fds(theirs, [b"first"], [theirs.fileno()])

        stream = await BytesOnlyStream.adopt(ours)

        with pytest.raises(E_FRAME, match="descriptors"):
            await stream.receive()
    await stream.aclose()


async def test_a_stream_of_bytes_alone_ends_like_any_other() -> None:
    ours, theirs = socket.socketpair()
    stream = await BytesOnlyStream.adopt(ours)
    theirs.close()

    with pytest.raises(anyio.EndOfStream):
        await stream.receive()
    await stream.aclose()
