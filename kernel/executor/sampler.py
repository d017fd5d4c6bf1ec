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
_FEW_CANDIDATES = 128
_MANY_CANDIDATES = 1024
_BLOCK = 64  # tokens whose maximum is taken first
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
    best, greedy = find_best(logits)
    tokens: list[int | None] = list(greedy.tolist())
    drawn = [row for row, one in enumerate(sequences) if one.sampling.temperature > 0]
    if drawn:
        some = logits if len(drawn) == len(logits) else logits[drawn]
        found = _draw(some, [sequences[row] for row in drawn])
        for row, token in zip(drawn, found, strict=True):
            tokens[row] = token
    for row in (~torch.isfinite(best)).nonzero().flatten().tolist():
        tokens[row] = None
    return tokens


def find_best(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest of each row, and the first place where it is.

    By blocks: a maximum alone is found several times as fast as one with its place.
    """
    num_rows, size = logits.shape
    if size % _BLOCK:
        return logits.max(-1)
    blocks = logits.reshape(num_rows, -1, _BLOCK)
    best, numbers = blocks.amax(-1).max(-1)
    places = blocks[torch.arange(num_rows, device=logits.device), numbers].max(-1).indices
    return best, numbers * _BLOCK + places


def find_largest(logits: torch.Tensor, count: int) -> torch.Tensor:
    """Where the `count` largest of each row are, in any order: [rows, count].

    They lie in the `count` blocks that have the largest maxima.
    """
    num_rows, size = logits.shape
    if size % _BLOCK or count * _BLOCK > size // 4:
        return torch.topk(logits, count, dim=-1, sorted=False).indices
    maxima = logits.reshape(num_rows, -1, _BLOCK).amax(-1)
    numbers = torch.topk(maxima, count, dim=-1, sorted=False).indices.unsqueeze(2)
    places = (numbers * _BLOCK + torch.arange(_BLOCK, device=logits.device)).flatten(1)
    found = torch.topk(logits.gather(1, places), count, dim=-1, sorted=False).indices
    return places.gather(1, found)


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
    """One token a row from the filtered distribution, by its cumulative sum in sorted order.

    The likeliest few are enough where the draw and all that the filters keep lie among them; the
    other rows are sorted as a whole, with the same result.
    """
    parameters = [one.sampling for one in sequences]
    if logits.device.type == "mps":
        logits = logits.cpu()  # it has no float64, which the sums are in
    logits = logits / _column([one.temperature for one in parameters], logits)
    probabilities = torch.softmax(logits, -1)
    uniform = draw_uniform([one.seed for one in parameters], [len(one.tokens) for one in sequences])
    goals = torch.from_numpy(uniform).to(logits.device)
    drawn, is_certain = pick(
        logits, probabilities, goals, parameters, _count_candidates(parameters)
    )
    if rest := (~is_certain).nonzero().flatten().tolist():
        size = logits.shape[1]
        some = [parameters[row] for row in rest]
        drawn[rest], _ = pick(logits[rest], probabilities[rest], goals[rest], some, size)
    return [int(token) for token in drawn.tolist()]


def _count_candidates(parameters: list[ResolvedSampling]) -> int:
    """How many of the likeliest are looked at first."""
    few = all(0 < one.top_k <= _FEW_CANDIDATES // 2 for one in parameters)
    return _FEW_CANDIDATES if few else _MANY_CANDIDATES


def pick(
    logits: torch.Tensor,
    probabilities: torch.Tensor,
    goals: torch.Tensor,
    parameters: list[ResolvedSampling],
    num_candidates: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """A token a row, looking at the likeliest `num_candidates`; and whether these were enough.

    `goals` are numbers in [0, 1). A row is certain when its token, and the last one that its
    filters keep, are likelier than the last candidate: no token outside has a say then, not even
    one that is as likely as one inside.
    """
    num_tokens = logits.shape[1]
    size = min(num_candidates, num_tokens)
    ordered, tokens = _order(logits, size)
    weights = probabilities.gather(1, tokens).double()
    sums = weights.cumsum(-1)
    kept, is_filtered = _count_kept(weights, sums, parameters, num_tokens)
    last = (kept - 1).unsqueeze(1)
    totals = torch.where(is_filtered, sums.gather(1, last).squeeze(1), 1.0)
    ranks = torch.searchsorted(sums, (goals * totals).unsqueeze(1), right=True)
    ranks = torch.minimum(ranks, last)
    border = torch.where(is_filtered, ordered.gather(1, last).squeeze(1), float("inf"))
    border = torch.minimum(border, ordered.gather(1, ranks).squeeze(1))
    is_certain = (border > ordered[:, -1]) | (size == num_tokens)
    return tokens.gather(1, ranks).squeeze(1), is_certain


def _order(logits: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `size` largest logits of each row in falling order, equal ones by their token."""
    if size == logits.shape[1]:
        ordered, tokens = torch.sort(logits, dim=-1, descending=True, stable=True)
        return ordered, tokens
    tokens = find_largest(logits, size).sort(-1).values
    ordered, places = torch.sort(logits.gather(1, tokens), dim=-1, descending=True, stable=True)
    return ordered, tokens.gather(1, places)


def _count_kept(
    weights: torch.Tensor, sums: torch.Tensor, parameters: list[ResolvedSampling], num_tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """How many of the candidates a row may draw, and whether filters say so.

    All of them where the end of what the filters keep is not among the candidates.
    """
    size = sums.shape[1]
    top_k = torch.tensor(
        [min(one.top_k or num_tokens, num_tokens) for one in parameters], device=sums.device
    )
    is_bounded = top_k < num_tokens
    ends = (top_k.clamp(max=size) - 1).unsqueeze(1)
    totals = torch.where(is_bounded, sums.gather(1, ends).squeeze(1), 1.0).unsqueeze(1)
    top_p = _column([one.top_p for one in parameters], sums)
    min_p = _column([one.min_p for one in parameters], sums)
    is_kept = (sums - weights < top_p * totals) | (top_p >= 1)
    is_kept &= (weights >= min_p * weights[:, :1]) & (weights > 0)
    kept = torch.minimum(is_kept.sum(-1), top_k)
    kept = torch.where(is_bounded & (top_k > size), size, kept).clamp(min=1)
    return kept, is_bounded | (top_p < 1).squeeze(1) | (min_p > 0).squeeze(1)
