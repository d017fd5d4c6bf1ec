"""Texts that a model reads: `score` and `embed`."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from llmos.syscalls.errors import E_ARG
from llmos.syscalls.generate import Embed, Embeddings, Score, Scores, TextScore
from llmos.syscalls.types import Usage

from ..drivers.driver import Driver, EmbedJob, ScoreJob
from .generation import announce_load
from .trap import Trap


class _Measured(Protocol):
    """A driver's answer."""

    @property
    def usage(self) -> Usage:
        """What it took."""


T = TypeVar("T", bound=_Measured)


async def sys_score(trap: Trap, call: Score) -> Scores:
    """How likely a model finds each continuation."""
    process, name = trap.process, call.model or trap.process.model
    messages = call.messages
    if call.context is not None:
        stored = await trap.machine.memory.context_read(process.pid, call.context)
        messages = stored + messages
    if call.context is not None or messages:
        await trap.begin()  # whether a context is empty depends on when: that is an outcome
    if not messages:
        raise E_ARG("there is no message to answer", field="messages")
    root = trap.machine.table.find_root(process)
    job = ScoreJob(messages, call.continuations, process.pid, process.tenant, root)
    scored = await _ask(trap, name, lambda driver: driver.score(job))
    scores = tuple(TextScore(sum(one.logprob for one in text), text) for text in scored.tokens)
    return Scores(scores, scored.usage, name)


async def sys_embed(trap: Trap, call: Embed) -> Embeddings:
    """Vectors of texts."""
    process, name = trap.process, call.model or trap.process.model
    await trap.begin()
    root = trap.machine.table.find_root(process)
    job = EmbedJob(call.texts, process.pid, process.tenant, root)
    embedded = await _ask(trap, name, lambda driver: driver.embed(job))
    return Embeddings(embedded.vectors, embedded.usage, name)


async def _ask(trap: Trap, name: str, ask: Callable[[Driver], Awaitable[T]]) -> T:
    """A driver's answer, its model loaded first; what it took is counted."""
    process, models = trap.process, trap.machine.models
    process.num_generating += 1
    try:
        announce = announce_load(process, name, models.get(name))
        async with models.using(name, announce) as driver:
            measured = await ask(driver)
    finally:
        process.num_generating -= 1
    process.prompt_tokens += measured.usage.prompt_tokens
    return measured
