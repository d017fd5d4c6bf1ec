"""A step's work: for each sequence, how many of its next tokens are computed."""

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
