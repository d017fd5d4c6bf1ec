"""Telling: how a generation's text reaches its app and its person, at once or when it is durable.

What was told must not be contradicted by a crash. Where an engine promises to go on exactly as it
began, text may be told before it is durable; else, and where the settings ask for it, after.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from llmos.syscalls.generate import Generate
from llmos.syscalls.tasks import side_by_side

from ..chunks import Recording
from ..config import Config
from ..drivers.driver import ModelInfo, TextDelta
from ..protocol import Output
from .trap import Trap

Hear = Callable[[TextDelta], Awaitable[None]]


def must_be_durable(config: Config, call: Generate, model: ModelInfo | None) -> bool:
    """Whether a call's text is told only when its tokens are durable."""
    is_promised = model is not None and bool(model.fingerprint)
    return (call.stream or call.show) and (config.output_commit == "strict" or not is_promised)


@asynccontextmanager
async def telling(
    trap: Trap, call: Generate, recording: Recording, *, is_strict: bool
) -> AsyncIterator[Hear]:
    """What records each delta of a branch and tells it; in the end all has been told.

    The app, whose code runs anew, is told what an earlier kernel has kept as well; the person has
    seen that.
    """
    teller = _Teller(trap, call, recording.num_kept_chars)
    for chunk in recording.begun.chunks:
        await teller.tell(chunk.text)
    if not is_strict:
        yield _tell_at_once(trap, recording, teller)
        return
    async with side_by_side() as tasks:
        tasks.start_soon(_tell_durable, trap, recording, teller)
        yield _record(recording)
        recording.end()


class _Teller:
    """Tells a text part by part. Its first `num_seen_chars` the person has seen."""

    def __init__(self, trap: Trap, call: Generate, num_seen_chars: int) -> None:
        self._trap = trap
        self._call = call
        self._num_seen_chars = num_seen_chars

    async def tell(self, text: str) -> None:
        """The next part. Its person is shown it before anything is waited for."""
        if self._call.show:
            self._show(text)
        if self._call.stream and text:
            await self._trap.send_text(text)
        if self._call.show:
            await self._trap.process.terminal.wait_for_room()

    def _show(self, text: str) -> None:
        process = self._trap.process
        new = text[self._num_seen_chars :]
        self._num_seen_chars -= len(text) - len(new)
        if new:
            process.num_printed_chars += len(new)
            process.terminal.emit(Output(process.pid, new))


def _tell_at_once(trap: Trap, recording: Recording, teller: _Teller) -> Hear:
    chunks = trap.machine.chunks

    async def hear(delta: TextDelta) -> None:
        recording.add(delta)
        chunks.note(recording)
        await teller.tell(delta.text)

    return hear


def _record(recording: Recording) -> Hear:
    async def hear(delta: TextDelta) -> None:
        recording.add(delta)

    return hear


async def _tell_durable(trap: Trap, recording: Recording, teller: _Teller) -> None:
    """Commit what has come whenever the store is free, and tell it then."""
    while await recording.wait_fresh():
        await teller.tell(await trap.machine.chunks.commit(recording))
