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


class GenerationJob(msgspec.Struct, frozen=True):
    """One generation. `sampling.seed` is concrete; `tenant` salts whatever the driver caches.

    `root` is the process that `pid` descends from: they are likely to have text in common.
    """

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    sampling: Sampling = Sampling()
    pid: int = 0
    tenant: str = ""
    grammar: Grammar | None = None
    tool_choice: str = "auto"
    root: int = 0


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
    """Text that follows what was delivered before, and how many tokens have been sampled for it."""

    text: str
    num_tokens: int


class Note(msgspec.Struct, frozen=True):
    """A line for the person who waits: what happened, and what becomes of it."""

    text: str


class Finished(msgspec.Struct, frozen=True):
    """The whole result. `text` is all deltas joined."""

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
    """What the loaded model is. Equal fingerprints continue each other's text exactly."""

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
        """Deltas in order, then one Finished; notes anywhere before it.

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
