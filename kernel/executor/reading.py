"""What a step reads off the model: which rows' logits each work needs, and what comes of them.

A generation needs the last row of its last chunk, to sample; a text that is scored, the row before
each of its tokens; a text that is embedded, no logits but the hidden states of all its rows.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch

from .batch import Work

_ROWS_AT_ONCE = 64  # float32 copies of logits in flight


@dataclass(frozen=True)
class Likelihood:
    """A token's natural log-probability, and the likeliest tokens with theirs, best first."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Sampled:
    """A generation's next token; None where the model's logits are not finite."""

    token: int | None
    likelihood: Likelihood | None = None


@dataclass(frozen=True)
class ScoredRows:
    """Log-probabilities of the tokens of a sequence from index `start` on."""

    start: int
    logprobs: list[float]


@dataclass(frozen=True, eq=False)
class Pooled:
    """The sum of the hidden states of a work's tokens, float32 [hidden]; `start` is its first."""

    start: int
    total: torch.Tensor


Reading = Sampled | ScoredRows | Pooled


def find_rows(work: Work) -> range:
    """The rows of a work, counted from its first, whose logits are needed."""
    sequence, start = work.sequence, work.sequence.num_computed
    if sequence.kind == "embed":
        return range(0)
    if sequence.kind == "generate":
        return range(work.num_tokens - 1, work.num_tokens) if work.is_last else range(0)
    first = max(sequence.num_prompt - 1 - start, 0)
    last = min(len(sequence.tokens) - 1 - start, work.num_tokens)
    return range(first, max(first, last))


def read_scores(work: Work, rows: range, logits: torch.Tensor) -> ScoredRows:
    """The work's share of its text's score, from the logits of its rows."""
    start = work.sequence.num_computed + rows.start + 1
    tokens = work.sequence.tokens[start : start + len(rows)]
    return ScoredRows(start, [one.logprob for one in measure(logits, tokens, [0] * len(tokens))])


def measure(logits: torch.Tensor, tokens: Seq[int | None], num_top: Seq[int]) -> list[Likelihood]:
    """Likelihoods of a token a row, by the model's own distribution; 0 where there is none."""
    found: list[Likelihood] = []
    for at in range(0, len(tokens), _ROWS_AT_ONCE):
        part = slice(at, at + _ROWS_AT_ONCE)
        found += _measure(logits[part], tokens[part], num_top[part])
    return found


def _measure(logits: torch.Tensor, tokens: Seq[int | None], num_top: Seq[int]) -> list[Likelihood]:
    logprobs = torch.log_softmax(logits.float(), -1)
    ids = torch.tensor([token or 0 for token in tokens], device=logits.device)
    chosen = logprobs.gather(1, ids.unsqueeze(1)).flatten().tolist()
    best = torch.topk(logprobs, min(max(num_top), logits.shape[1]), -1)
    values, indices = best.values.tolist(), best.indices.tolist()
    return [
        Likelihood(chosen[row], tuple(zip(indices[row][:size], values[row][:size], strict=True)))
        for row, size in enumerate(num_top)
    ]
