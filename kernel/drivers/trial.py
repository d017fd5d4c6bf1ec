"""Which generations may run: after a death those that were running, one at a time.

Whatever ran when an executor died may have killed it, so each of these suspects runs alone, and
everything else waits, until it has got well past the place of the death or has ended. If the
executor dies again, the one that was alone with it is the culprit; no other is harmed.
"""

import asyncio
from collections.abc import Iterable, Set

from llmos.syscalls.errors import ErrorReply
from llmos.syscalls.types import TokenLogprobs

from ..executor.protocol import Done, Embed, Embedded, Generate, Score, Scored, Token
from .driver import (
    EmbeddedTexts,
    EmbedJob,
    Finished,
    GenerationJob,
    Job,
    Note,
    ScoredTexts,
    ScoreJob,
    TextDelta,
)

PROBATION_TOKENS = 64
End = Finished | ScoredTexts | EmbeddedTexts
Item = TextDelta | Note | End
Tokens = tuple[int, ...]


class Flight:
    """One generation, from request to result: what has arrived of it, over several executors.

    `text` is what `tokens` make; what the job brought of both is not delivered. `items` is read by
    whoever asked, at its own pace.
    """

    def __init__(self, number: int, job: Job) -> None:
        self.number = number
        self.job = job
        emitted = job.emitted if isinstance(job, GenerationJob) else None
        self.tokens = list(emitted.tokens) if emitted else []
        self.text = emitted.text if emitted else ""
        self.fingerprint = emitted.fingerprint if emitted else ""  # of who made the last of them
        self._logprobs = list(emitted.logprobs) if emitted else []
        self.items: asyncio.Queue[Item | ErrorReply] = asyncio.Queue()
        self.is_sent = False  # to the present executor
        self.is_held = False  # there, but out of the batch
        self._cleared_at: int | None = None

    @property
    def is_running(self) -> bool:
        """Whether the executor computes it."""
        return self.is_sent and not self.is_held

    @property
    def is_suspect(self) -> bool:
        """Whether it has to run alone."""
        return self._cleared_at is not None

    def make_request(self) -> Generate | Score | Embed:
        """The job for an executor, with what there is of it so far."""
        job = self.job
        if isinstance(job, ScoreJob):
            return Score(self.number, job.messages, job.continuations, job.tenant, job.pid)
        if isinstance(job, EmbedJob):
            return Embed(self.number, job.texts, job.tenant, job.pid)
        return Generate(
            self.number,
            job.messages,
            job.tools,
            job.sampling,
            job.tenant,
            tuple(self.tokens),
            job.grammar,
            job.tool_choice,
            owner=job.pid,
        )

    def accuse(self) -> None:
        """It ran when an executor died."""
        self._cleared_at = len(self.tokens) + PROBATION_TOKENS

    def leave_executor(self) -> None:
        """The executor is gone."""
        self.is_sent = self.is_held = False

    def take(self, output: Token) -> None:
        """More of it has come; it may be cleared by that."""
        self.tokens += output.tokens
        self._logprobs += output.logprobs
        self.text += output.text
        self._deliver(output.text, output.num_tokens, output.tokens, output.logprobs)
        if self._cleared_at is not None and len(self.tokens) >= self._cleared_at:
            self._cleared_at = None

    def finish(self, done: Done) -> None:
        """It is complete; its last text comes with the result."""
        rest, tokens = done.text[len(self.text) :], done.tokens[len(self.tokens) :]
        if rest or tokens:
            logprobs = done.logprobs[max(0, len(done.logprobs) - len(tokens)) :]
            self._deliver(rest, done.usage.completion_tokens, tokens, logprobs)
        before = self._logprobs[: len(done.tokens) - len(done.logprobs)]
        self.items.put_nowait(
            Finished(
                done.text,
                done.tool_calls,
                done.finish_reason,
                done.usage,
                (*before, *done.logprobs),
            )
        )

    def _deliver(
        self, text: str, num_tokens: int, tokens: Tokens, logprobs: tuple[TokenLogprobs, ...]
    ) -> None:
        self.items.put_nowait(TextDelta(text, num_tokens, tokens, self.fingerprint, logprobs))

    def measure(self, output: Scored | Embedded) -> None:
        """It is complete, in one piece."""
        if isinstance(output, Scored):
            self.items.put_nowait(ScoredTexts(output.tokens, output.usage))
        else:
            self.items.put_nowait(EmbeddedTexts(output.vectors, output.usage))

    def fail(self, error: ErrorReply) -> None:
        """It ends without a result."""
        self.items.put_nowait(error)

    def note(self, text: str) -> None:
        """Say something to whoever asked."""
        self.items.put_nowait(Note(text))


def choose_running(flights: Iterable[Flight], paused: Set[int]) -> frozenset[Flight]:
    """All whose process is not paused; of suspects one alone, and that until it is cleared."""
    able = [flight for flight in flights if flight.job.pid not in paused]
    suspects = [flight for flight in able if flight.is_suspect]
    if not suspects:
        return frozenset(able)
    return frozenset([max(suspects, key=lambda flight: flight.is_running)])
