"""A step's work: for each sequence, how many of its next tokens are computed."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .sequence import Sequence


@dataclass(frozen=True)
class Work:
    """The next `num_tokens` tokens of a sequence; its table has pages for them."""

    sequence: Sequence
    num_tokens: int

    @property
    def is_last(self) -> bool:
        """Whether no token is left after it, so that the next one can be sampled."""
        return self.num_tokens == self.sequence.num_left

    @property
    def kind(self) -> str:
        """What its tokens are computed for, as StatsReply has it."""
        sequence = self.sequence
        if sequence.kind != "generate":
            return "scored" if sequence.kind == "score" else "embedded"
        return "prefill" if sequence.num_computed < sequence.num_prompt else "decode"

    @property
    def tokens(self) -> list[int]:
        """The token ids, in order."""
        start = self.sequence.num_computed
        return self.sequence.tokens[start : start + self.num_tokens]

    @property
    def positions(self) -> NDArray[np.int64]:
        """The tokens' places in the sequence."""
        start = self.sequence.num_computed
        return np.arange(start, start + self.num_tokens)

    def find_slots(self, page_size: int) -> NDArray[np.int64]:
        """Where each token's keys and values go: page x page_size + place in the page."""
        start = self.sequence.num_computed
        first = start // page_size
        last = (start + self.num_tokens - 1) // page_size + 1
        pages = self.sequence.pages.numbers[first:last].astype(np.int64)
        slots = (pages[:, None] * page_size + np.arange(page_size)).ravel()
        offset = start - first * page_size
        return slots[offset : offset + self.num_tokens]

    def find_slot(self, page_size: int) -> int:
        """The same for its first token alone."""
        page, place = divmod(self.sequence.num_computed, page_size)
        return self.sequence.pages[page] * page_size + place


def is_decode(works: Seq[Work]) -> bool:
    """Whether all that is to do is to decode: one token of each, whose logits are read."""
    return all(
        work.num_tokens == 1 and work.is_last and work.sequence.kind == "generate" for work in works
    )


Numbers = NDArray[np.int64]


def pack(works: Seq[Work], page_size: int) -> tuple[Numbers, Numbers, Numbers]:
    """Token ids, positions and slots of all works in one row; single tokens come first.

    A decode costs a few lookups, whatever the length of its context.
    """
    num_singles = sum(work.num_tokens == 1 for work in works)
    singles, chunks = works[:num_singles], works[num_singles:]
    places = [work.sequence.num_computed for work in singles]
    tokens = [work.sequence.tokens[place] for work, place in zip(singles, places, strict=True)]
    for work in chunks:
        tokens += work.tokens
    slots = np.array([work.find_slot(page_size) for work in singles], np.int64)
    return (
        np.array(tokens, np.int64),
        np.concatenate([np.array(places, np.int64), *(work.positions for work in chunks)]),
        np.concatenate([slots, *(work.find_slots(page_size) for work in chunks)]),
    )
