"""A connected socket as a byte stream, for the path that every syscall takes.

asyncio's own streams keep their reader registered and write at once; anyio's sockets register and
yield anew for every call, which costs half of a syscall's round trip.
"""

import asyncio
import socket
from contextlib import suppress

import anyio

from .errors import E_FRAME
from .frames import READ_BYTES

CLOSE_TIMEOUT_SECONDS = 1.0


class BytesOnlySocket(socket.socket):
    """A socket whose stream ends where descriptors come along.

    `recvmsg` without room for descriptors makes the operating system close them, and say so: they
    never are in this process.
    """

    brought_descriptors = False

    def recv(self, max_bytes: int, flags: int = 0, /) -> bytes:
        """What asyncio reads with."""
        data, _, told, _ = self.recvmsg(max_bytes, 0, flags)
        if told & socket.MSG_CTRUNC:
            self.brought_descriptors = True
            return b""
        return data


class SocketStream:
    """Bytes over a socket, with anyio's exceptions for its end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def adopt(cls, sock: socket.socket) -> "SocketStream":
        """Take over a connected stream socket."""
        return cls(*await asyncio.open_connection(sock=sock))

    async def receive(self, max_bytes: int = READ_BYTES) -> bytes:
        """The next bytes. Raises anyio.EndOfStream at the end."""
        try:
            data = await self._reader.read(max_bytes)
        except OSError:
            raise anyio.BrokenResourceError from None
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        """Write all bytes; waits only while the other end does not read."""
        if self._writer.is_closing():
            raise anyio.ClosedResourceError
        self._writer.write(item)
        try:
            await self._writer.drain()
        except OSError:
            raise anyio.BrokenResourceError from None

    async def aclose(self) -> None:
        """Close the socket; what was written is sent first if the other end reads it in time."""
        self._writer.close()
        with anyio.move_on_after(CLOSE_TIMEOUT_SECONDS, shield=True), suppress(OSError):
            await asyncio.shield(self._writer.wait_closed())
        self._writer.transport.abort()


class BytesOnlyStream(SocketStream):
    """A stream that may bring bytes alone: descriptors are E_FRAME, and held by nobody."""

    _socket: BytesOnlySocket

    @classmethod
    async def adopt(cls, sock: socket.socket) -> "BytesOnlyStream":
        """Take over a connected stream socket."""
        own = BytesOnlySocket(sock.family, sock.type, sock.proto, fileno=sock.detach())
        stream = cls(*await asyncio.open_connection(sock=own))
        stream._socket = own
        return stream

    async def receive(self, max_bytes: int = READ_BYTES) -> bytes:
        """The next bytes. Raises anyio.EndOfStream at the end, E_FRAME where descriptors came."""
        try:
            return await super().receive(max_bytes)
        except anyio.EndOfStream:
            if self._socket.brought_descriptors:
                raise E_FRAME("descriptors came along; a frame is bytes alone") from None
            raise
