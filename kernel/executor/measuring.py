"""Texts that are read and not continued: scored against a prompt, or turned into vectors.

Each text is a sequence of its own in the step loop, ended when its last token is computed. What a
step reads is kept by its place, so that a sequence which is preempted and computed again gives the
same result.
"""

import itertools
import math
from array import array
from typing import Any

import torch

from llmos.syscalls.errors import E_ARG, E_CANCELLED, E_CONTEXT, E_MODEL, SyscallError
from llmos.syscalls.types import TokenScore, Usage

from .chat import ChatEncoder
from .prefix import make_root
from .protocol import Embed, Embedded, Failed, Output, Score, Scored
from .reading import Pooled, Reading, ScoredRows
from .scheduler import Scheduler
from .sequence import Kind, ResolvedSampling, Sequence

MAX_SCORED_TOKENS = 16_384  # a reply with more would not fit in a frame
_FIELDS = {"score": "continuations", "embed": "texts"}
_NO_SAMPLING = ResolvedSampling(max_tokens=1)


class Measurement:
    """One request: its sequences, what was read of each, and which have ended."""

    def __init__(self, request: Score | Embed, sequences: list[Sequence], tokenizer: Any) -> None:
        self.id = request.id
        self.sequences = sequences
        self._kind = sequences[0].kind
        self._tokenizer = tokenizer
        self._logprobs: dict[tuple[int, int], float] = {}
        self._totals: dict[int, list[torch.Tensor]] = {}
        self._left = {one.id for one in sequences}

    def take(self, sequence: Sequence, reading: Reading | None) -> bool:
        """Keep what a step has read; whether this was the last of the request."""
        if isinstance(reading, ScoredRows):
            for place, logprob in enumerate(reading.logprobs, reading.start):
                self._logprobs[sequence.id, place] = logprob
        elif isinstance(reading, Pooled):
            totals = self._totals.setdefault(sequence.id, [])
            if reading.start == 0:
                totals.clear()  # it was preempted, and begins anew
            totals.append(reading.total)
        if sequence.num_left == 0:
            self._left.discard(sequence.id)
        return not self._left

    def make_output(self) -> Scored | Embedded:
        """The result. Raises E_MODEL for numbers that are not finite."""
        sequences = self.sequences
        num_tokens = sum(len(one.tokens) for one in sequences)
        if self._kind == "score":
            num_tokens -= sequences[0].num_prompt * (len(sequences) - 1)  # the prompt counts once
        cached = sequences[0].num_cached or 0
        usage = Usage(num_tokens, cached, 0)
        if self._kind == "embed":
            return Embedded(self.id, tuple(map(self._pool, sequences)), usage)
        return Scored(self.id, tuple(map(self._list_scores, sequences)), usage)

    def _list_scores(self, sequence: Sequence) -> tuple[TokenScore, ...]:
        places = range(sequence.num_prompt, len(sequence.tokens))
        logprobs = [self._logprobs[sequence.id, place] for place in places]
        if any(math.isnan(one) for one in logprobs):
            raise E_MODEL("the model's numbers are not finite")
        return tuple(
            TokenScore(token, str(self._tokenizer.decode([token])), logprob)
            for token, logprob in zip(sequence.tokens[sequence.num_prompt :], logprobs, strict=True)
        )

    def _pool(self, sequence: Sequence) -> bytes:
        """The mean of all hidden states, made one long."""
        mean = torch.stack(self._totals[sequence.id]).sum(0) / len(sequence.tokens)
        if not bool(torch.isfinite(mean).all()):
            raise E_MODEL("the model's numbers are not finite")
        vector = array("f", torch.nn.functional.normalize(mean, dim=0).tolist())
        return vector.tobytes()


class Measurements:
    """The requests under way; their sequences' numbers are negative, unlike any generation's."""

    def __init__(
        self,
        scheduler: Scheduler,
        chat: ChatEncoder,
        tokenizer: Any,
        *,
        fingerprint: str,
        max_model_len: int,
    ) -> None:
        self._scheduler = scheduler
        self._chat = chat
        self._tokenizer = tokenizer
        self._fingerprint = fingerprint
        self._max_model_len = max_model_len
        self._numbers = itertools.count(-1, -1)
        self._by_sequence: dict[int, Measurement] = {}

    def submit(self, request: Score | Embed) -> None:
        """Put its texts in line. E_ARG for one without tokens, and for too many of them;
        E_CONTEXT for one past the window."""
        if isinstance(request, Embed):
            texts = [self._encode_text(one) for one in request.texts]
            sequences = [self._make_sequence(request, "embed", [], one) for one in texts]
        else:
            prompt = self._chat.encode(request.messages, ())
            sequences = [
                self._make_sequence(request, "score", prompt, self._chat.encode_answer(one))
                for one in request.continuations
            ]
            num_tokens = sum(len(one.tokens) - one.num_prompt for one in sequences)
            if num_tokens > MAX_SCORED_TOKENS:
                sizes = f"have {num_tokens} tokens; {MAX_SCORED_TOKENS} are scored at once"
                raise E_ARG(f"the continuations {sizes}", field="continuations")
        measurement = Measurement(request, sequences, self._tokenizer)
        for sequence in sequences:
            self._by_sequence[sequence.id] = measurement
            self._scheduler.add(sequence)

    def _encode_text(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, split_special_tokens=True))

    def _make_sequence(
        self, request: Score | Embed, kind: Kind, prompt: list[int], text: list[int]
    ) -> Sequence:
        if not text:
            raise E_ARG("a text has no tokens", field=_FIELDS[kind])
        num_tokens = len(prompt) + len(text)
        if num_tokens > self._max_model_len:
            sizes = f"has {num_tokens} tokens with its prompt"
            raise E_CONTEXT(f"a text {sizes}; the window holds {self._max_model_len}")
        root = make_root(self._fingerprint, request.tenant)
        sequence = Sequence(next(self._numbers), list(prompt), _NO_SAMPLING, root, request.owner)
        sequence.tokens += text
        sequence.kind = kind
        return sequence

    def take(self, sequence: Sequence, reading: Reading | None) -> list[Output]:
        """What a step has read of a sequence; the result, if that was the last of its request."""
        measurement = self._by_sequence[sequence.id]
        is_last = measurement.take(sequence, reading)
        if sequence.num_left == 0:
            self._drop(sequence)
        if not is_last:
            return []
        try:
            return [measurement.make_output()]
        except SyscallError as error:
            return [Failed(measurement.id, error.reply())]

    def find(self, request_id: int) -> list[Sequence]:
        """The sequences of a request that have not ended."""
        requests = {one.id: one for one in self._by_sequence.values()}
        found = requests.get(request_id)
        return [one for one in found.sequences if one.id in self._by_sequence] if found else []

    def cancel(self, request_id: int) -> list[Output]:
        """End a request, if it is one of these."""
        sequences = self.find(request_id)
        return self.end(sequences[0], E_CANCELLED("the call was cancelled")) if sequences else []

    def end(self, sequence: Sequence, error: SyscallError) -> list[Output]:
        """End the request of this sequence with an error."""
        request_id = self._by_sequence[sequence.id].id
        for one in self.find(request_id):
            self._drop(one)
        return [Failed(request_id, error.reply())]

    def _drop(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence)
        del self._by_sequence[sequence.id]
