"""Token chunks: what a running generation makes becomes durable, so that another kernel goes on.

A chunk is queued when it has CHUNK_TOKENS tokens or is CHUNK_SECONDS old, for all generations at
once, and rides the store's group commit. What of it the person is shown becomes output in the same
transaction. The chunks of a call go with its ending.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import anyio

from llmos.memory.chunks import Begun, Branch, Chunk, cut_chunks, find_begun, put_chunk
from llmos.memory.db import Connection, Database
from llmos.memory.journal import append_output
from llmos.syscalls.types import TokenLogprobs

from .clock import Clock
from .drivers.driver import Emitted, TextDelta

CHUNK_TOKENS = 32
CHUNK_SECONDS = 0.25
NOTHING = Begun()
logger = logging.getLogger(__name__)


class Recording:
    """One branch of a running generation: what there is of it, and how much of that is queued."""

    def __init__(
        self,
        branch: Branch,
        *,
        prompt: bytes,
        max_tokens: int,
        is_shown: bool = False,
        begun: Begun = NOTHING,
    ) -> None:
        self.branch = branch
        self.max_tokens = max_tokens
        self.begun = begun
        self.num_tokens = begun.num_tokens
        self.num_kept_chars = begun.num_chars if is_shown else 0  # of the text, as output
        self.num_fresh_tokens = 0  # that are not queued
        self.is_over = False
        self._prompt = prompt
        self._is_shown = is_shown
        self._texts = [chunk.text for chunk in begun.chunks]
        self._num_chars = sum(map(len, self._texts))
        self._engines = {one for chunk in begun.chunks for one in chunk.fingerprints}
        self._fresh: list[TextDelta] = []
        self._arrived = anyio.Event()

    @property
    def text(self) -> str:
        """All text so far."""
        return "".join([*self._texts, *(delta.text for delta in self._fresh)])

    @property
    def is_exact(self) -> bool:
        """Whether all tokens are those of one undisturbed run: from one prompt and one engine, and
        where the branch was continued, from one that promises to continue as it began."""
        is_promised = not self.begun.chunks or "" not in self._engines
        prompts = {chunk.prompt for chunk in self.begun.chunks}
        return is_promised and len(self._engines) <= 1 and prompts <= {self._prompt}

    @property
    def has_fresh(self) -> bool:
        """Whether there is something that is not queued."""
        return bool(self._fresh)

    def find_emitted(self) -> Emitted | None:
        """What an earlier kernel has kept of it."""
        chunks = self.begun.chunks
        if not chunks:
            return None
        return Emitted(
            tuple(token for chunk in chunks for token in chunk.tokens),
            "".join(chunk.text for chunk in chunks),
            chunks[-1].fingerprints[-1],
            tuple(one for chunk in chunks for one in chunk.logprobs),
        )

    def add(self, delta: TextDelta) -> None:
        """More of it has come."""
        self._fresh.append(delta)
        if delta.tokens:
            self._engines.add(delta.fingerprint)
            self.num_tokens += len(delta.tokens)
            self.num_fresh_tokens += len(delta.tokens)
        self._arrived.set()

    def end(self) -> None:
        """Nothing more will come."""
        self.is_over = True
        self._arrived.set()

    async def wait_fresh(self) -> bool:
        """Wait for more of it; False when it is over and all is queued."""
        while not self._fresh and not self.is_over:
            self._arrived = anyio.Event()
            await self._arrived.wait()
        return bool(self._fresh)

    def take(self) -> tuple[Chunk, str]:
        """What is not queued yet, and what of its text is to be output; from now on it is."""
        fresh, self._fresh, self.num_fresh_tokens = self._fresh, [], 0
        text = "".join(delta.text for delta in fresh)
        shown = text[max(0, self.num_kept_chars - self._num_chars) :] if self._is_shown else ""
        self._texts.append(text)
        self._num_chars += len(text)
        self.num_kept_chars += len(shown)
        tokens = tuple(token for delta in fresh for token in delta.tokens)
        logprobs: tuple[TokenLogprobs, ...] = tuple(
            one for delta in fresh for one in delta.logprobs
        )
        chunk = Chunk(
            self.num_tokens - len(tokens),
            tokens,
            text,
            max(self._num_chars, self.begun.num_chars),
            tuple(dict.fromkeys(delta.fingerprint for delta in fresh if delta.tokens)),
            self._prompt,
            self.max_tokens,
            logprobs,
        )
        return chunk, shown


class Chunks:
    """The recordings whose tokens are to be queued. `run` sees to those that have waited."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock
        self._pending: dict[Recording, None] = {}
        self._arrived = anyio.Event()

    async def find(self, pid: int, strand: str, seq: int) -> dict[int, Begun]:
        """What an earlier kernel has kept of a call, by branch; what cannot be used is dropped."""
        found = await find_begun(self._db, pid, strand, seq)
        for number, begun in found.items():
            if begun.num_dropped:
                logger.warning(
                    "%d chunks of generation %d/%s/%d are damaged; made again from token %d on",
                    *(begun.num_dropped, pid, strand, seq, begun.num_tokens),
                )
                branch = Branch(pid, strand, seq, number)
                self._db.write_nowait(
                    partial(cut_chunks, branch=branch, num_tokens=begun.num_tokens), owner=pid
                )
        return found

    def note(self, recording: Recording) -> None:
        """More of it has come, which is to be durable soon."""
        self._pending[recording] = None
        if recording.num_fresh_tokens >= CHUNK_TOKENS:
            self.flush()
        else:
            self._arrived.set()

    def flush(self) -> None:
        """Queue what has come of all generations."""
        self._queue(self._pending)
        self._pending.clear()

    async def commit(self, recording: Recording) -> str:
        """Make durable what has come; returns its text. Waits as long as the disk needs."""
        chunk, shown = recording.take()
        write = partial(_write, branch=recording.branch, chunk=chunk, shown=shown)
        await self._db.write(write, owner=recording.branch.pid, keep=True)
        return chunk.text

    @contextmanager
    def kept(self, recordings: Sequence[Recording]) -> Iterator[None]:
        """While the context lasts these get on; cut off, what has come of them is queued."""
        is_cut_off = True
        try:
            yield
            is_cut_off = False
        finally:
            for recording in recordings:
                self._pending.pop(recording, None)
            if is_cut_off:
                self._queue(recordings)

    def _queue(self, recordings: Iterable[Recording]) -> None:
        for recording in recordings:
            if recording.has_fresh:
                branch = recording.branch
                chunk, shown = recording.take()
                write = partial(_write, branch=branch, chunk=chunk, shown=shown)
                self._db.write_nowait(write, owner=branch.pid)

    async def run(self) -> None:
        """Queue what has waited for CHUNK_SECONDS, until cancelled."""
        while True:
            if not self._pending:
                self._arrived = anyio.Event()
                await self._arrived.wait()
            await self._clock.sleep(CHUNK_SECONDS)
            self.flush()


def _write(connection: Connection, branch: Branch, chunk: Chunk, shown: str) -> None:
    """Write a chunk, and what the person has seen of it."""
    if chunk.tokens:
        put_chunk(connection, branch, chunk)
    if shown:
        append_output(connection, branch.pid, shown)
