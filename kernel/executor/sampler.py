"""Draws the next token of every row of a batch at once.

Randomness is counter-based: the number for a token is Philox4x32-10 of (seed, position), so a
draw depends on nothing else in the batch and any token can be drawn again. Source: Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3" (SC11).
"""

from collections.abc import Sequence as Seq

import numpy as np
import torch
from numpy.typing import NDArray

from .sequence import ResolvedSampling, Sequence

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_ROUNDS = 10
Words = NDArray[np.uint64]


def philox(counter: Words, key: Words) -> Words:
    """Philox4x32-10 of counters [n, 4] and keys [n, 2], each word below 2**32: [n, 4]."""
    a, b, c, d = counter.T
    k, m = key.T
    for _ in range(_ROUNDS):
        left, right = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, c = (right >> _HALF) ^ b ^ k, (left >> _HALF) ^ d ^ m
        b, d = right & _LOW, left & _LOW
        k, m = (k + _WEYL[0]) & _LOW, (m + _WEYL[1]) & _LOW
    return np.stack([a, b, c, d], 1)


def draw_uniform(seeds: Seq[int], positions: Seq[int]) -> NDArray[np.float64]:
    """A number in [0, 1) for each (seed, position), with 53 random bits."""
    seed, position = np.array(seeds, np.uint64), np.array(positions, np.uint64)
    zeros = np.zeros_like(position)
    counter = np.stack([position & _LOW, position >> _HALF, zeros, zeros], 1)
    words = philox(counter, np.stack([seed & _LOW, seed >> _HALF], 1))
    bits = ((words[:, 0] << _HALF) | words[:, 1]) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


def sample(logits: torch.Tensor, sequences: Seq[Sequence]) -> list[int | None]:
    """The next token of each sequence; None where the model gave no usable number.

    `logits` is [n, vocabulary]. A token's position, which keys its draw, is its index in the
    sequence. Parameters apply in this order: penalties, temperature, top_k, top_p, min_p.
    """
    logits = logits.float()
    penalized = [row for row, one in enumerate(sequences) if one.sampling.has_penalties]
    if penalized:
        logits = logits.clone()
        logits[penalized] = _penalize(logits[penalized], [sequences[row] for row in penalized])
    best, greedy = logits.max(-1)
    tokens: list[int | None] = list(greedy.tolist())
    drawn = [row for row, one in enumerate(sequences) if one.sampling.temperature > 0]
    if drawn:
        for row, token in zip(
            drawn, _draw(logits[drawn], [sequences[row] for row in drawn]), strict=True
        ):
            tokens[row] = token
    for row in (~torch.isfinite(best)).nonzero().flatten().tolist():
        tokens[row] = None
    return tokens


def _column(values: list[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).unsqueeze(1)


def _penalize(logits: torch.Tensor, sequences: list[Sequence]) -> torch.Tensor:
    counts = torch.stack([one.count_tokens(logits.shape[1], logits.device) for one in sequences])
    prompt, output = counts.unbind(1)
    parameters = [one.sampling for one in sequences]
    repetition = _column([one.repetition_penalty for one in parameters], logits)
    presence = _column([one.presence_penalty for one in parameters], logits)
    frequency = _column([one.frequency_penalty for one in parameters], logits)
    repeated = torch.where(logits > 0, logits / repetition, logits * repetition)
    logits = torch.where((prompt + output) > 0, repeated, logits)
    return logits - presence * (output > 0) - frequency * output


def _draw(logits: torch.Tensor, sequences: list[Sequence]) -> list[int]:
    """One token a row from the filtered distribution, by its cumulative sum in sorted order."""
    parameters = [one.sampling for one in sequences]
    logits = logits / _column([one.temperature for one in parameters], logits)
    ordered, tokens = torch.sort(logits, dim=-1, descending=True, stable=True)
    probabilities = torch.softmax(_filter(ordered, parameters), -1)
    sums = probabilities.double().cumsum(-1)
    uniform = draw_uniform([one.seed for one in parameters], [len(one.tokens) for one in sequences])
    goal = torch.from_numpy(uniform).to(sums.device).unsqueeze(1) * sums[:, -1:]
    ranks = torch.searchsorted(sums, goal, right=True)
    ranks = torch.minimum(ranks, (probabilities > 0).sum(-1, keepdim=True) - 1)
    return [int(token) for token in tokens.gather(1, ranks).flatten().tolist()]


def _filter(ordered: torch.Tensor, parameters: list[ResolvedSampling]) -> torch.Tensor:
    """Logits in falling order, with what top_k, top_p and min_p leave out at minus infinity."""
    num_tokens = ordered.shape[1]
    top_k = _column([float(one.top_k or num_tokens) for one in parameters], ordered)
    ranks = torch.arange(num_tokens, device=ordered.device)
    ordered = ordered.masked_fill(ranks >= top_k, float("-inf"))
    probabilities = torch.softmax(ordered, -1)
    before = probabilities.cumsum(-1) - probabilities
    hidden = before >= _column([one.top_p for one in parameters], ordered)
    hidden &= _column([float(one.top_p < 1) for one in parameters], ordered).bool()
    ordered = ordered.masked_fill(hidden, float("-inf"))
    probabilities = torch.softmax(ordered, -1)
    least = _column([one.min_p for one in parameters], ordered) * probabilities[:, :1]
    return ordered.masked_fill(probabilities < least, float("-inf"))
