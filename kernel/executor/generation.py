"""A generation from request to result: its parameters resolved, its text, how it ended."""

from typing import Any

from llmos.syscalls.errors import E_CONTEXT
from llmos.syscalls.types import FinishReason, Sampling, TokenLogprobs, TokenScore, Usage

from .detokenizer import Detokenizer, StopChecker
from .grammar import Constraint
from .protocol import Done, Generate
from .reading import Likelihood
from .sequence import ResolvedSampling, Sequence
from .toolcalls import ToolCallParser


class Generation:
    """One request in progress. `take_in` is called first, then for each sampled token `append` and
    `read`."""

    def __init__(
        self,
        request: Generate,
        sequence: Sequence,
        detokenizer: Detokenizer,
        parser: ToolCallParser | None,
        ends: frozenset[int],
    ) -> None:
        self.id = request.id
        self.sequence = sequence
        self._texts: list[str] = []
        self.finish_reason: FinishReason | None = None
        self._detokenizer = detokenizer
        self._stops = StopChecker(sequence.sampling.stop)
        self._parser = parser
        self._ends = ends
        self._num_sent = 0
        self._logprobs: list[TokenLogprobs] = []
        self._emitted = request.emitted

    def take_in(self, constraint: Constraint | None = None) -> None:
        """Take in what was emitted before, as if it had been sampled here: it may be the whole.

        All of the answer has to fit the grammar, if there is one.
        """
        self.sequence.constraint = constraint
        for token in self._emitted:
            if not self.finish_reason:
                self.append(token)
                self.read(token)
        self.take_unsent()

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._texts)

    @property
    def grammar_error(self) -> str:
        """Why the grammar cannot go on, where it cannot."""
        constraint = self.sequence.constraint
        return constraint.error if constraint else ""

    def take_unsent(self) -> tuple[tuple[int, ...], tuple[TokenLogprobs, ...]]:
        """The tokens that were sampled since the last call, and their log-probabilities."""
        unsent = self.sequence.tokens[self.sequence.num_prompt + self._num_sent :]
        self._num_sent += len(unsent)
        return tuple(unsent), tuple(self._logprobs[len(self._logprobs) - len(unsent) :])

    def append(self, token: int, likelihood: Likelihood | None = None) -> None:
        """A token has been sampled. Sets `finish_reason` if it is the last whatever its text."""
        self.sequence.tokens.append(token)
        if likelihood:
            self._logprobs.append(self._describe(token, likelihood))
        constraint = self.sequence.constraint
        if constraint:
            constraint.advance(token)
        if token in self._ends or (constraint is not None and constraint.is_complete):
            self.finish_reason = "stop"
        elif self.sequence.num_completion >= self.sequence.sampling.max_tokens:
            self.finish_reason = "length"

    def read(self, token: int) -> str:
        """The text to show now that this token, the last that was appended, is there.

        Sets `finish_reason` if the text ends with it.
        """
        text = self._stops.add("" if token in self._ends else self._detokenizer.add(token))
        if self._stops.is_stopped:
            self.finish_reason = "stop"
        if self.finish_reason:
            text += self._stops.add(self._detokenizer.finish()) + self._stops.finish()
            if self._stops.is_stopped:
                self.finish_reason = "stop"
        if self._parser:
            text = self._parser.add(text) + (self._parser.finish() if self.finish_reason else "")
        self._texts.append(text)
        return text

    def _describe(self, token: int, likelihood: Likelihood) -> TokenLogprobs:
        def score(token: int, logprob: float) -> TokenScore:
            return TokenScore(token, self._detokenizer.show(token), logprob)

        top = tuple(score(one, logprob) for one, logprob in likelihood.top)
        return TokenLogprobs(score(token, likelihood.logprob), top)

    def make_done(self) -> Done:
        """The result. `finish_reason` must be set."""
        assert self.finish_reason is not None
        calls = tuple(self._parser.calls) if self._parser else ()
        reason = "tool_calls" if calls else self.finish_reason
        usage = Usage(
            prompt_tokens=self.sequence.num_prompt,
            cached_tokens=min(self.sequence.num_cached or 0, self.sequence.num_prompt),
            completion_tokens=self.sequence.num_completion,
        )
        tokens = tuple(self.sequence.tokens[self.sequence.num_prompt :])
        return Done(self.id, self.text, tokens, calls, reason, usage, tuple(self._logprobs))


def resolve_sampling(
    wanted: Sampling,
    defaults: Any,
    *,
    num_prompt: int,
    max_model_len: int,
    num_emitted: int = 0,
    why: str = "",
) -> ResolvedSampling:
    """Fill in the model's own defaults (its generation_config) and cut max_tokens to the window.

    Raises E_CONTEXT when the window has no room for one token after the prompt, or for what of the
    answer was emitted before; `why` says what bounds the window.
    """
    room = max_model_len - num_prompt
    if room < max(1, num_emitted):
        sizes = f"{num_prompt} tokens" + f" and its answer {num_emitted}" * bool(num_emitted)
        window = f"the window holds {max_model_len} with the answer"
        raise E_CONTEXT(f"the prompt has {sizes}; {window}{why}")

    def choose(value: Any, name: str, otherwise: Any) -> Any:
        if value is not None:
            return value
        own = getattr(defaults, name, None)
        return otherwise if own is None else own

    own_temperature = choose(None, "temperature", 1.0) if defaults.do_sample else 0.0
    return ResolvedSampling(
        max_tokens=min(room, wanted.max_tokens or room),
        temperature=own_temperature if wanted.temperature is None else wanted.temperature,
        top_p=choose(wanted.top_p, "top_p", 1.0),
        top_k=choose(wanted.top_k, "top_k", 0),
        min_p=choose(wanted.min_p, "min_p", 0.0),
        repetition_penalty=choose(wanted.repetition_penalty, "repetition_penalty", 1.0),
        presence_penalty=wanted.presence_penalty,
        frequency_penalty=wanted.frequency_penalty,
        seed=wanted.seed or 0,
        stop=wanted.stop,
        logprobs=wanted.logprobs,
    )
