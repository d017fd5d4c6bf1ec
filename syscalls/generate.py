"""Calls that make text: `generate`."""

from typing import Annotated

import msgspec
from msgspec import Meta

from .types import FinishReason, Message, Name, Path, Sampling, ToolCall, Usage


class Generate(msgspec.Struct, frozen=True):
    """Continue a conversation with a model.

    The model sees the messages of `context` (if one is named), then `messages`, which are not
    stored. `tools` are names of tools that it may wish to call; calling them is the caller's part.
    With `stream` the reply is preceded by its text in chunks; with `show` the kernel writes the
    text to the process's output as it is sampled. `model` None means the process's model.
    """

    messages: Annotated[tuple[Message, ...], Meta(max_length=10_000)] = ()
    context: Annotated[int, Meta(ge=1)] | None = None
    tools: Annotated[tuple[Name, ...], Meta(max_length=128)] = ()
    sampling: Sampling = Sampling()
    model: Path | None = None
    stream: bool = False
    show: bool = False


class Generation(msgspec.Struct, frozen=True):
    """What a model answered. `tool_calls` are wishes; `seed` makes the draw repeatable."""

    text: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason
    usage: Usage
    model: str
    seed: int
