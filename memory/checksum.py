"""The checksum that every row of the store which must not lie carries.

BLAKE2b (RFC 7693) of the canonical msgpack of the row's fields. SQLite's own checks catch a
quarter of harmful bit flips, a checksum per row all of them. What it cannot see is a row that is
not there: whatever holds a list says how long the list is (`extent`, `contexts`), and a pid that
was given out belongs to a row (`processes`).
"""

from hashlib import blake2b

import msgspec

from llmos.syscalls.errors import E_STORAGE

CHECKSUM_BYTES = 16
_encoder = msgspec.msgpack.Encoder()


def checksum(*fields: str | bytes | int | float | None) -> bytes:
    """The checksum of these fields in this order. Equal values give equal bytes."""
    return blake2b(_encoder.encode(fields), digest_size=CHECKSUM_BYTES).digest()


def damage(what: str) -> E_STORAGE:
    """The error of a reader that found something else than what was written."""
    return E_STORAGE(f"{what}; fix: restore a backup (llmos db restore FILE)")
