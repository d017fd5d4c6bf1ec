"""The seam between the kernel and whatever makes text.

A driver is one loaded model. The kernel asks it for generations and reads deltas; how many run at
once, on what device and in which process is the driver's own business. Drivers know nothing of
processes but a `pid`, which only names the generations to pause and resume.
"""

from collections.abc import AsyncGenerator
from typing import Protocol

import msgspec

from llmos.syscalls.types import FinishReason, Message, Sampling, ToolCall, ToolSpec, Usage


class GenerationJob(msgspec.Struct, frozen=True):
    """One generation. `sampling.seed` is concrete; `tenant` salts whatever the driver caches."""

    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    sampling: Sampling = Sampling()
    pid: int = 0
    tenant: str = ""


class TextDelta(msgspec.Struct, frozen=True):
    """Text that follows what was delivered before, and how many tokens have been sampled for it."""

    text: str
    num_tokens: int


class Finished(msgspec.Struct, frozen=True):
    """The whole result. `text` is all deltas joined."""

    text: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason
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


class Driver(Protocol):
    """One loaded model."""

    async def start(self) -> ModelInfo:
        """Load the model, once. Raises E_MODEL with the reason and the fix."""
        ...

    def generate(self, job: GenerationJob) -> AsyncGenerator[TextDelta | Finished, None]:
        """Deltas in order, then one Finished.

        Closing the generator (`aclose`, or a cancel of the task that reads it) ends the generation.
        Raises E_ARG, E_CONTEXT, E_BUSY or E_MODEL.
        """
        ...

    def pause(self, pid: int) -> None:
        """Hold this process's generations: they keep their place but use no compute."""
        ...

    def resume(self, pid: int) -> None:
        """Let this process's generations go on."""
        ...

    async def aclose(self) -> None:
        """End every generation and give back whatever the driver holds."""
        ...
