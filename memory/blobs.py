"""Bodies that are too large for a row, kept once each under the digest of their bytes.

The journal's rows stay small, so that walking a journal is fast; a row names its body by digest
(BLAKE2b-256, RFC 7693), which is the body's checksum as well. A body goes when no row names it.
"""

import sqlite3
from hashlib import blake2b

from .checksum import damage

MAX_ROW_BODY_BYTES = 16 << 10
DIGEST_BYTES = 32
PUT = "INSERT INTO blob(digest, body) VALUES (?, ?) ON CONFLICT DO NOTHING"
FIND = "SELECT body FROM blob WHERE digest = ?"
REMOVE_UNUSED = (
    "DELETE FROM blob WHERE NOT EXISTS (SELECT 1 FROM journal WHERE journal.blob = blob.digest)"
)


def digest_body(body: bytes) -> bytes:
    """The name of a body."""
    return blake2b(body, digest_size=DIGEST_BYTES).digest()


def put(driver: sqlite3.Connection, body: bytes) -> bytes:
    """Keep a body in the caller's transaction; its digest."""
    digest = digest_body(body)
    driver.execute(PUT, (digest, body))
    return digest


def read(driver: sqlite3.Connection, digest: bytes, owner: str) -> bytes:
    """A body, byte for byte. E_STORAGE naming `owner`, whose it is, if it is lost or damaged."""
    found = driver.execute(FIND, (digest,)).fetchone()
    if found is None:
        raise damage(f"the body of {owner} is missing")
    body: bytes = found[0]
    if not isinstance(body, bytes) or digest_body(body) != digest:
        raise damage(f"the body of {owner} is damaged")
    return body


def remove_unused(driver: sqlite3.Connection) -> int:
    """Remove the bodies that no row names, after rows have gone; how many there were."""
    return driver.execute(REMOVE_UNUSED).rowcount
