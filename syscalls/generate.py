"""Calls of a model: `generate`, `score`, `embed`."""

from typing import Annotated

import msgspec
from msgspec import Meta

from .types import (
    MAX_TEXT_CHARS,
    FinishReason,
    Grammar,
    Message,
    Name,
    Path,
    Sampling,
    TokenLogprobs,
    TokenScore,
    ToolCall,
    Usage,
)

MAX_BRANCHES = 16
MAX_CONTINUATIONS = 64
MAX_EMBEDDED_TEXTS = 16
FilledText = Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_CHARS)]


class Generate(msgspec.Struct, frozen=True):
    """Continue a conversation with a model.

    The model sees the messages of `context` (if one is named), then `messages`, which are not
    stored. `tools` are names of tools that it may wish to call; calling them is the caller's part.
    With `stream` the reply is preceded by its text in chunks; with `show` the kernel writes the
    text to the process's output as it is sampled. `model` None means the process's model.

    The whole answer fits `grammar`, unless it ends with "length" before it is whole. `tool_choice`
    "auto" leaves it to the model whether to call; "required" makes the answer a call of one of the
    tools, a tool's name a call of that one. `n` branches go on from one prompt, each with a draw of
    its own; they cannot be streamed or shown.
    """

    messages: Annotated[tuple[Message, ...], Meta(max_length=10_000)] = ()
    context: Annotated[int, Meta(ge=1)] | None = None
    tools: Annotated[tuple[Name, ...], Meta(max_length=128)] = ()
    sampling: Sampling = Sampling()
    model: Path | None = None
    stream: bool = False
    show: bool = False
    grammar: Grammar | None = None
    tool_choice: Name = "auto"
    n: Annotated[int, Meta(ge=1, le=MAX_BRANCHES)] = 1


class Choice(msgspec.Struct, frozen=True):
    """One branch of an answer."""

    text: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason
    seed: int
    logprobs: tuple[TokenLogprobs, ...] = ()


class Generation(msgspec.Struct, frozen=True):
    """What a model answered. `tool_calls` are wishes; `seed` makes the draw repeatable.

    `others` are the branches after the first; `usage` counts the prompt once and all branches.
    `exact` says that all text is what one undisturbed run would have made; after a crash it is not
    where another engine (other weights, precision or device), or another prompt, went on.
    """

    text: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason
    usage: Usage
    model: str
    seed: int
    logprobs: tuple[TokenLogprobs, ...] = ()
    others: tuple[Choice, ...] = ()
    exact: bool = True

    @property
    def choices(self) -> tuple[Choice, ...]:
        """All branches."""
        first = Choice(self.text, self.tool_calls, self.finish_reason, self.seed, self.logprobs)
        return (first, *self.others)


class Score(msgspec.Struct, frozen=True):
    """Tell how likely a model finds texts as the answer to a conversation.

    The conversation is that of `generate`; each continuation is taken as the beginning of the
    assistant's answer, as plain text without an end.
    """

    messages: Annotated[tuple[Message, ...], Meta(max_length=10_000)] = ()
    continuations: Annotated[
        tuple[FilledText, ...], Meta(min_length=1, max_length=MAX_CONTINUATIONS)
    ] = ()
    context: Annotated[int, Meta(ge=1)] | None = None
    model: Path | None = None


class TextScore(msgspec.Struct, frozen=True):
    """A text's natural log-likelihood, and that of its tokens, of which it is the sum."""

    logprob: float
    tokens: tuple[TokenScore, ...]


class Scores(msgspec.Struct, frozen=True):
    """The continuations' likelihoods, in their order."""

    scores: tuple[TextScore, ...]
    usage: Usage
    model: str


class Embed(msgspec.Struct, frozen=True):
    """Turn texts into vectors of length 1: the mean of a causal model's last hidden states."""

    texts: Annotated[tuple[FilledText, ...], Meta(min_length=1, max_length=MAX_EMBEDDED_TEXTS)]
    model: Path | None = None


class Embeddings(msgspec.Struct, frozen=True):
    """A vector for each text, in their order, as little-endian float32."""

    vectors: tuple[bytes, ...]
    usage: Usage
    model: str
