"""A connected socket as a byte stream, for the path that every syscall takes.

A protocol of asyncio's keeps its reader registered and writes at once; anyio's sockets register and
yield anew for every call, and asyncio's own streams pass each piece through three more objects.
"""

import asyncio
import socket
from typing import Self, cast

import anyio

from .errors import E_FRAME
from .frames import READ_BYTES

CLOSE_TIMEOUT_SECONDS = 1.0
MAX_BUFFERED_BYTES = 2 * READ_BYTES
_CUT_OFF = int(socket.MSG_CTRUNC)  # a flag's own `&` is written in Python


class SocketStream(asyncio.Protocol):
    """Bytes over a socket, with anyio's exceptions for its end. One task may receive at a time."""

    _transport: asyncio.Transport

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._arrival: asyncio.Future[None] | None = None
        self._is_paused = False
        self._end: Exception | None = None
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._closed = asyncio.Event()

    @classmethod
    async def adopt(cls, sock: socket.socket) -> Self:
        """Take over a connected stream socket."""
        stream = cls(sock)
        await stream._loop.create_connection(lambda: stream, sock=stream._socket)
        return stream

    async def receive(self, max_bytes: int = READ_BYTES) -> bytes:
        """The next bytes. Raises anyio.EndOfStream at the end."""
        while not self._received:
            if self._end is not None:
                raise self._end
            self._arrival = self._loop.create_future()
            await self._arrival
        data = bytes(self._received[:max_bytes])
        del self._received[:max_bytes]
        if self._is_paused and len(self._received) <= MAX_BUFFERED_BYTES:
            self._is_paused = False
            self._transport.resume_reading()
        return data

    async def send(self, item: bytes) -> None:
        """Write all bytes, whoever else sends; waits only while the other end does not read."""
        if self._transport.is_closing():
            raise anyio.ClosedResourceError
        self._transport.write(item)
        if not self._has_room.is_set():
            await self._has_room.wait()
        if self._transport.is_closing():
            raise anyio.BrokenResourceError

    async def aclose(self) -> None:
        """Close the socket; what was written is sent first if the other end reads it in time."""
        self._transport.close()
        with anyio.move_on_after(CLOSE_TIMEOUT_SECONDS, shield=True):
            await self._closed.wait()
        self._transport.abort()

    # -- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is taken over."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Bytes have arrived; what nobody reads in time makes the other end wait."""
        self._received += data
        if len(self._received) > MAX_BUFFERED_BYTES:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        """The other end sends no more; it may still be sent to."""
        self._finish(anyio.EndOfStream())
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed, by either end."""
        self._finish(anyio.BrokenResourceError() if exc else anyio.EndOfStream())
        self._closed.set()
        self._has_room.set()

    def pause_writing(self) -> None:
        """The other end does not read."""
        self._has_room.clear()

    def resume_writing(self) -> None:
        """The other end reads again."""
        self._has_room.set()

    def _finish(self, end: Exception) -> None:
        self._end = self._end or end
        self._wake()

    def _wake(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)


class BytesOnlySocket(socket.socket):
    """A socket whose stream ends where descriptors come along.

    `recvmsg` without room for descriptors makes the operating system close them, and say so: they
    never are in this process.
    """

    brought_descriptors = False

    def recv(self, max_bytes: int, flags: int = 0, /) -> bytes:
        """What asyncio reads with."""
        data, _, told, _ = self.recvmsg(max_bytes, 0, flags)
        if told & _CUT_OFF:
            self.brought_descriptors = True
            return b""
        return data


class BytesOnlyStream(SocketStream):
    """A stream that may bring bytes alone: descriptors are E_FRAME, and held by nobody."""

    _socket: BytesOnlySocket

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(BytesOnlySocket(sock.family, sock.type, sock.proto, fileno=sock.detach()))

    def eof_received(self) -> bool:
        """The other end sends no more, or nothing that may be read."""
        if self._socket.brought_descriptors:
            self._finish(E_FRAME("descriptors came along; a frame is bytes alone"))
        return super().eof_received()
