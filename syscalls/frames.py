"""The frame: how values are cut out of a byte stream, on every socket that llmos speaks over.

A frame is a 4-byte big-endian length and that many bytes, the body: at least one, at most what the
socket's protocol allows. This module knows bytes alone; who reads, and how it waits, is elsewhere.
"""

import struct

from .errors import E_ARG, E_FRAME

READ_BYTES = 65_536

_LENGTH = struct.Struct(">I")


def pack_frame(body: bytes, max_frame_bytes: int) -> bytes:
    """A body as a whole frame. Larger than a frame may be: E_ARG with both sizes."""
    if len(body) > max_frame_bytes:
        raise E_ARG(f"the message has {len(body)} bytes, a frame holds {max_frame_bytes}")
    return _LENGTH.pack(len(body)) + body


class FrameBuffer:
    """Bytes as they arrive, taken out body by body."""

    def __init__(self, max_frame_bytes: int) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._buffer = bytearray()

    def __bool__(self) -> bool:
        """Whether a frame has begun that was not taken."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> None:
        """Add what has arrived."""
        self._buffer += data

    def take(self) -> bytes | None:
        """The next body; None until all of it is here. E_FRAME for a length out of bounds."""
        buffer = self._buffer
        if len(buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(buffer)
        if not 0 < length <= self._max_frame_bytes:
            raise E_FRAME(f"a frame of {length} bytes; 1 to {self._max_frame_bytes} are allowed")
        end = _LENGTH.size + length
        if len(buffer) < end:
            return None
        body = bytes(buffer[_LENGTH.size : end])
        del buffer[:end]
        return body
