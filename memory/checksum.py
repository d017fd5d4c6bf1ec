"""The checksum that every row of the store which must not lie carries.

BLAKE2b (RFC 7693) of the canonical msgpack of the row's fields. SQLite's own checks catch a
quarter of harmful bit flips, a checksum per row all of them.
"""

from hashlib import blake2b

import msgspec

CHECKSUM_BYTES = 16
_encoder = msgspec.msgpack.Encoder()


def checksum(*fields: str | bytes | int | float | None) -> bytes:
    """The checksum of these fields in this order. Equal values give equal bytes."""
    return blake2b(_encoder.encode(fields), digest_size=CHECKSUM_BYTES).digest()
