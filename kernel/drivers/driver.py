"""The seam between the kernel and whatever makes text.

A driver is one loaded model. The kernel asks it for generations and reads deltas; how many run at
once, on what device and in which process is the driver's own business. Drivers know nothing of
processes but their numbers, which name the generations to pause and resume, and tell which ones
are likely to begin alike.
"""

from collections.abc import AsyncGenerator
from typing import Literal, Protocol

import msgspec

from llmos.syscalls.types import (
    FinishReason,
    Grammar,
    Message,
    Sampling,
    TokenLogprobs,
    TokenScore,
    ToolCall,
    ToolSpec,
    Usage,
)

from ..stats import StatsReply, TraceReply

Wait = Literal["tool", "person", "gone"]


class Emitted(msgspec.Struct, frozen=True):
    """The beginning of an answer, by an engine of this fingerprint: the answer goes on after it.

    `tokens` make `text`; `logprobs` are theirs, where they were asked for.
    """

    tokens: tuple[int, ...]
    text: str
    fingerprint: str
    logprobs: tuple[TokenLogprobs, ...] = ()


class GenerationJob(msgspec.Struct, frozen=True):
    """One generation. `sampling.seed` is concrete; `tenant` salts whatever the driver caches.

    `root` is the process that `pid` descends from: they are likely to have text in common.
    `emitted` is what there is of the answer already.
    """

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    sampling: Sampling = Sampling()
    pid: int = 0
    tenant: str = ""
    grammar: Grammar | None = None
    tool_choice: str = "auto"
    root: int = 0
    emitted: Emitted | None = None


class ScoreJob(msgspec.Struct, frozen=True):
    """How likely each continuation is as the beginning of the answer."""

    messages: tuple[Message, ...]
    continuations: tuple[str, ...]
    pid: int = 0
    tenant: str = ""
    root: int = 0


class EmbedJob(msgspec.Struct, frozen=True):
    """Texts to turn into vectors."""

    texts: tuple[str, ...]
    pid: int = 0
    tenant: str = ""
    root: int = 0


Job = GenerationJob | ScoreJob | EmbedJob


class TextDelta(msgspec.Struct, frozen=True):
    """Text that follows what was delivered before, and the tokens that made it.

    They are those since the last delta, all so far make all text so far; `num_tokens` have been
    sampled in all. The engine that sampled them has this fingerprint; "" promises nothing.
    """

    text: str
    num_tokens: int
    tokens: tuple[int, ...] = ()
    fingerprint: str = ""
    logprobs: tuple[TokenLogprobs, ...] = ()


class Note(msgspec.Struct, frozen=True):
    """A line for the person who waits: what happened, and what becomes of it."""

    text: str


class Finished(msgspec.Struct, frozen=True):
    """The whole result. `text` is what was emitted before and all deltas joined."""

    text: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason
    usage: Usage
    logprobs: tuple[TokenLogprobs, ...] = ()


Generated = TextDelta | Note | Finished


class ScoredTexts(msgspec.Struct, frozen=True):
    """The tokens of each continuation with their log-probabilities."""

    tokens: tuple[tuple[TokenScore, ...], ...]
    usage: Usage


class EmbeddedTexts(msgspec.Struct, frozen=True):
    """A vector of length 1 for each text, as little-endian float32."""

    vectors: tuple[bytes, ...]
    usage: Usage


class ModelInfo(msgspec.Struct, frozen=True):
    """What the loaded model is. Equal fingerprints continue each other's text exactly.

    Those that begin alike, up to the first dash, have the same tokens and can continue each other's
    text. "" is a model that promises neither.
    """

    name: str
    driver: str
    device: str
    dtype: str
    num_parameters: int
    max_model_len: int
    fingerprint: str


class Grant(msgspec.Struct, frozen=True):
    """A place for a model: torch's name of a device, and how many bytes its pages may take there.

    None is as many as the executor thinks fit.
    """

    device: str = "auto"
    max_pool_bytes: int | None = None


def have_same_tokens(fingerprint: str, other: str) -> bool:
    """Whether one engine can go on after the other's tokens."""
    return fingerprint.partition("-")[0] == other.partition("-")[0]


class Driver(Protocol):
    """One loaded model."""

    async def start(self, grants: tuple[Grant, ...] = (Grant(),)) -> ModelInfo:
        """Load the model in these places, once. Raises E_MODEL with the reason and the fix."""
        ...

    async def unload(self) -> None:
        """Give back the memory; nobody has a generation here. `start` loads the model again."""
        ...

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The operating system's numbers of the processes that hold the model."""
        ...

    def generate(self, job: GenerationJob) -> AsyncGenerator[Generated, None]:
        """Deltas in order, then one Finished; notes anywhere before it. All tokens come in deltas.

        With `emitted` the deltas are what follows that. E_MODEL, with its text as `partial`, where
        the model's tokens are others by now.

        Closing the generator (`aclose`, or a cancel of the task that reads it) ends the generation.
        Raises E_ARG, E_CONTEXT, E_BUSY or E_MODEL.
        """
        ...

    async def score(self, job: ScoreJob) -> ScoredTexts:
        """Cancelled like any task. Raises E_ARG, E_CONTEXT or E_MODEL."""
        ...

    async def embed(self, job: EmbedJob) -> EmbeddedTexts:
        """Cancelled like any task. Raises E_ARG, E_CONTEXT or E_MODEL."""
        ...

    def pause(self, pid: int) -> None:
        """Hold this process's generations: they keep their place but use no compute."""
        ...

    def resume(self, pid: int) -> None:
        """Let this process's generations go on."""
        ...

    def hint(self, pid: int, kind: Wait, expected_idle_seconds: float | None = None) -> None:
        """The process begins to wait, or has ended: what is kept for it is worth less for a while.

        None is as long as a wait of its kind usually takes.
        """
        ...

    async def collect_stats(self) -> tuple[StatsReply, ...]:
        """What each of its executors counts of its steps and pages. Raises E_MODEL."""
        ...

    async def trace(self, seconds: float) -> TraceReply | None:
        """A record of the steps of the next seconds; None where there are none. Raises E_MODEL."""
        ...

    async def aclose(self) -> None:
        """End every generation and give back whatever the driver holds."""
        ...
