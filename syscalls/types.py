"""The values that calls and replies are made of, with their bounds."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

MAX_TEXT_CHARS = 1_000_000
MAX_ARGUMENTS_CHARS = 65_536
MAX_SEED = 2**63 - 1
MAX_SLEEP_SECONDS = 366 * 86_400.0

Pid = Annotated[int, Meta(ge=1, le=2**53)]
Seq = Annotated[int, Meta(ge=0, le=2**53)]
Strand = Annotated[str, Meta(pattern=r"^[0-9]{1,9}(\.[0-9]{1,9}){0,15}\Z")]
Text = Annotated[str, Meta(max_length=MAX_TEXT_CHARS)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Path = Annotated[str, Meta(min_length=1, max_length=4096)]
JsonText = Annotated[str, Meta(min_length=2, max_length=MAX_ARGUMENTS_CHARS)]
StopString = Annotated[str, Meta(min_length=1, max_length=256)]
Role = Literal["system", "user", "assistant", "tool"]
GrammarKind = Literal["json_schema", "regex", "lark"]


class ToolCall(msgspec.Struct, frozen=True):
    """A model's wish to call a tool. `arguments` is the text of a JSON object."""

    name: Name
    arguments: JsonText
    id: Annotated[str, Meta(max_length=200)] = ""


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of a context. A `tool` message answers a call: `name` is the tool's."""

    role: Role
    content: Text = ""
    tool_calls: Annotated[tuple[ToolCall, ...], Meta(max_length=64)] = ()
    name: Annotated[str, Meta(max_length=200)] = ""
    tool_call_id: Annotated[str, Meta(max_length=200)] = ""


class ToolSpec(msgspec.Struct, frozen=True):
    """A tool as a model sees it. `parameters` is the text of its JSON schema."""

    name: Name
    description: Text
    parameters: JsonText


class Grammar(msgspec.Struct, frozen=True):
    """What an answer must fit as a whole: the text of a JSON schema, a regex or a Lark grammar."""

    kind: GrammarKind
    text: Annotated[str, Meta(min_length=1, max_length=MAX_TEXT_CHARS)]


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How tokens are drawn. None means the model's own default (its generation_config).

    `temperature` 0 is greedy. `top_k` 0 means no bound. A `seed` of None lets the kernel draw one,
    which the journal keeps: with the same seed and position the same token is drawn, whatever
    else is in the batch. NaN and the infinities are outside every bound. With `logprobs` each
    token comes with its log-probability and that many likeliest ones.
    """

    max_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    min_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0.0, le=10.0)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2.0, le=2.0)] = 0.0
    frequency_penalty: Annotated[float, Meta(ge=-2.0, le=2.0)] = 0.0
    seed: Annotated[int, Meta(ge=0, le=MAX_SEED)] | None = None
    stop: Annotated[tuple[StopString, ...], Meta(max_length=16)] = ()
    logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None


class TokenScore(msgspec.Struct, frozen=True, array_like=True):
    """A token and its natural log-probability; `text` alone may be a part of a character."""

    token: int
    text: str
    logprob: float


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """The token that came, and the likeliest ones, best first.

    By the model's own distribution: before temperature, penalties, filters and grammar.
    """

    chosen: TokenScore
    top: tuple[TokenScore, ...] = ()


class Usage(msgspec.Struct, frozen=True):
    """What a generation used, in tokens. `cached_tokens` of the prompt needed no prefill."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


FinishReason = Literal["stop", "length", "tool_calls"]
