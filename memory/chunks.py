"""Token chunks: what a running generation has made, part by part, until its call has an ending.

They save work and nothing else: a part that is damaged or missing is made again with all that
follows it, and nothing of a chunk is believed before its checksum is. The functions that take a
connection run inside `Database.write`, so that a part and what the person saw of it are one
transaction, and so are the ending of a call and the end of its chunks.
"""

from collections.abc import Iterable
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
from sqlalchemy import Connection

from llmos.syscalls.types import TokenLogprobs

from .checksum import checksum
from .db import Database
from .driver import driver_of

PUT = (
    "INSERT OR REPLACE INTO chunk(pid, strand, seq, branch, first_token, body, checksum)"
    " VALUES (?, ?, ?, ?, ?, ?, ?)"
)
FIND = (
    "SELECT pid, strand, seq, branch, first_token, body, checksum FROM chunk"
    " WHERE pid = ? AND strand = ? AND seq = ? ORDER BY branch, first_token"
)
CUT = (
    "DELETE FROM chunk WHERE pid = ? AND strand = ? AND seq = ? AND branch = ? AND first_token >= ?"
)


class Branch(NamedTuple):
    """One of the answers that a call of a process asks for."""

    pid: int
    strand: str
    seq: int
    number: int


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """Tokens from `first_token` on, with the text that they brought.

    With it `num_chars` of the branch's text are output, if it is shown. `fingerprints` are those of
    the engines that made the tokens, `prompt` a digest of what these were shown, `max_tokens` how
    many there may be in all.
    """

    first_token: int
    tokens: tuple[int, ...]
    text: str
    num_chars: int
    fingerprints: tuple[str, ...]
    prompt: bytes
    max_tokens: int
    logprobs: tuple[TokenLogprobs, ...] = ()


class Begun(msgspec.Struct, frozen=True):
    """What is there of a branch: the chunks that follow each other from its first token on.

    `num_chars` of its text are output, if it is shown, by a chunk that may be one of the
    `num_dropped`.
    """

    chunks: tuple[Chunk, ...] = ()
    num_chars: int = 0
    num_dropped: int = 0

    @property
    def num_tokens(self) -> int:
        """How many tokens the chunks have."""
        return sum(len(chunk.tokens) for chunk in self.chunks)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Chunk)


def put_chunk(connection: Connection, branch: Branch, chunk: Chunk) -> None:
    """Keep a part of a branch."""
    fields = (*branch, chunk.first_token, _encoder.encode(chunk))
    driver_of(connection).execute(PUT, (*fields, checksum(*fields)))


def cut_chunks(connection: Connection, branch: Branch, num_tokens: int) -> None:
    """Give up what there is of a branch beyond its first tokens."""
    driver_of(connection).execute(CUT, (*branch, num_tokens))


def delete_chunks(connection: Connection, pid: int, strand: str, seq: int) -> None:
    """The call has an ending."""
    driver_of(connection).execute(
        "DELETE FROM chunk WHERE pid = ? AND strand = ? AND seq = ?", (pid, strand, seq)
    )


def delete_all_chunks(connection: Connection, pid: int) -> None:
    """The process has ended, and with it the calls that have no ending."""
    driver_of(connection).execute("DELETE FROM chunk WHERE pid = ?", (pid,))


async def find_begun(db: Database, pid: int, strand: str, seq: int) -> dict[int, Begun]:
    """What there is of a call's branches, by their numbers."""
    rows = await db.read(
        lambda connection: connection.exec_driver_sql(FIND, (pid, strand, seq)).all()
    )
    return {branch: _join(group) for branch, group in groupby(rows, attrgetter("branch"))}


def _join(rows: Iterable[Any]) -> Begun:
    """The sound beginning of a branch's rows, and how far its text went."""
    chunks: list[Chunk] = []
    num_tokens = num_chars = num_dropped = 0
    for row in rows:
        chunk = _decoder.decode(row.body) if checksum(*row[:-1]) == row.checksum else None
        if chunk:
            num_chars = max(num_chars, chunk.num_chars)
        if chunk and not num_dropped and row.first_token == num_tokens:
            chunks.append(chunk)
            num_tokens += len(chunk.tokens)
        else:
            num_dropped += 1
    return Begun(tuple(chunks), num_chars, num_dropped)
