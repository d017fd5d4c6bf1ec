"""A driver without weights: it answers with the last message's words, the same every time.

It stands in for a model wherever the model does not matter: tests, demonstrations, simulations.
A token is a word, its number a digest. The last user message scripts it:

    any text              that text back, word by word
    !tool NAME {json}     a call of NAME with these arguments (one call a line)
    !slow N text          the text, with N milliseconds before each word

After a tool's message it answers "NAME: result". It samples nothing, so that a grammar, a choice
of tools and log-probabilities change nothing: a script has to fit what it is asked for. Its scores
and vectors come from the letters alone.
"""

import hashlib
import math
import re
import struct
from collections.abc import AsyncGenerator

import anyio

from llmos.syscalls.errors import E_ARG, E_CONTEXT
from llmos.syscalls.types import FinishReason, Message, TokenScore, ToolCall, Usage

from ..stats import StatsReply, TraceReply
from .driver import (
    EmbeddedTexts,
    EmbedJob,
    Finished,
    GenerationJob,
    Grant,
    ModelInfo,
    ScoredTexts,
    ScoreJob,
    TextDelta,
    Wait,
)

VECTOR_DIMENSIONS = 64
_WORD = re.compile(r"\s*\S+|\s+")
_TOOL_LINE = re.compile(r"^!tool (\S+) (\{.*\})$", re.MULTILINE)
_SLOW = re.compile(r"!slow (\d{1,6}) (.*)", re.DOTALL)


class EchoDriver:
    """Deterministic answers at once; sampling is ignored but for `max_tokens` and `stop`."""

    def __init__(self, *, max_model_len: int = 8192) -> None:
        self.info = ModelInfo("echo", "echo", "none", "none", 0, max_model_len, "echo-1")
        self._paused: dict[int, anyio.Event] = {}

    process_ids: tuple[int, ...] = ()

    async def start(self, grants: tuple[Grant, ...] = (Grant(),)) -> ModelInfo:
        """Nothing to load."""
        return self.info

    async def unload(self) -> None:
        """Nothing is held."""

    async def generate(self, job: GenerationJob) -> AsyncGenerator[TextDelta | Finished, None]:
        """The scripted answer. Raises E_ARG without messages, E_CONTEXT past the window."""
        num_prompt = self._count_prompt(job.messages)
        text, calls, delay_seconds = _plan_answer(job.messages[-1])
        text, reason = _cut(text, job)
        words = _WORD.findall(text)
        num_emitted = len(job.emitted.tokens) if job.emitted else 0
        for num_tokens, word in enumerate(words[num_emitted:], num_emitted + 1):
            await anyio.sleep(delay_seconds)
            while gate := self._paused.get(job.pid):
                await gate.wait()
            yield TextDelta(word, num_tokens, (_number(word),), self.info.fingerprint)
        usage = Usage(num_prompt, 0, len(words) + len(calls))
        yield Finished(text, calls, "tool_calls" if calls else reason, usage)

    async def score(self, job: ScoreJob) -> ScoredTexts:
        """Every word of a continuation has the log-probability of minus its length."""
        num_prompt = self._count_prompt(job.messages)
        texts = [_WORD.findall(text) for text in job.continuations]
        tokens = tuple(
            tuple(TokenScore(_number(word), word, -float(len(word))) for word in words)
            for words in texts
        )
        return ScoredTexts(tokens, Usage(num_prompt + sum(map(len, texts)), 0, 0))

    async def embed(self, job: EmbedJob) -> EmbeddedTexts:
        """A vector of VECTOR_DIMENSIONS numbers: equal words of two texts bring them nearer."""
        texts = [text.split() for text in job.texts]
        num_tokens = sum(map(len, texts))
        return EmbeddedTexts(tuple(map(_embed, texts)), Usage(num_tokens, 0, 0))

    def _count_prompt(self, messages: tuple[Message, ...]) -> int:
        if not messages:
            raise E_ARG("there is no message to answer", field="messages")
        num_words = sum(len(message.content.split()) for message in messages)
        if num_words + 1 > self.info.max_model_len:
            limit = self.info.max_model_len
            raise E_CONTEXT(f"the prompt has {num_words} tokens, the window holds {limit}")
        return num_words

    def pause(self, pid: int) -> None:
        """Hold this process's answers before their next word."""
        self._paused.setdefault(pid, anyio.Event())

    def resume(self, pid: int) -> None:
        """Let this process's answers go on."""
        if gate := self._paused.pop(pid, None):
            gate.set()

    def hint(self, pid: int, kind: Wait, expected_idle_seconds: float | None = None) -> None:
        """Nothing is kept."""

    async def collect_stats(self) -> tuple[StatsReply, ...]:
        """There are no steps and no pages."""
        return ()

    async def trace(self, seconds: float) -> TraceReply | None:
        """There are no steps."""
        return None

    async def aclose(self) -> None:
        """Let go of whoever is paused."""
        for pid in tuple(self._paused):
            self.resume(pid)


def _number(word: str) -> int:
    """A word's number: a digest of it."""
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "big")


def _embed(words: list[str]) -> bytes:
    """How often each of the words' digests falls into each place, made one long."""
    counts = [0.0] * VECTOR_DIMENSIONS
    for word in words or [""]:
        counts[_number(word) % VECTOR_DIMENSIONS] += 1.0
    length = math.hypot(*counts)
    return struct.pack(f"<{VECTOR_DIMENSIONS}f", *(count / length for count in counts))


def _plan_answer(last: Message) -> tuple[str, tuple[ToolCall, ...], float]:
    if last.role == "tool":
        return f"{last.name}: {last.content}", (), 0.0
    lines = _TOOL_LINE.findall(last.content)
    if lines:
        return (
            "",
            tuple(ToolCall(name, text, f"call_{i}") for i, (name, text) in enumerate(lines)),
            0.0,
        )
    if slow := _SLOW.fullmatch(last.content):
        return slow.group(2), (), int(slow.group(1)) / 1000
    return last.content, (), 0.0


def _cut(text: str, job: GenerationJob) -> tuple[str, FinishReason]:
    """The text up to the first stop string, then up to `max_tokens` words."""
    stops = [at for stop in job.sampling.stop if (at := text.find(stop)) >= 0]
    text = text[: min(stops, default=len(text))]
    words = _WORD.findall(text)
    limit = job.sampling.max_tokens
    if limit is not None and len(words) > limit:
        return "".join(words[:limit]), "length"
    return text, "stop"
