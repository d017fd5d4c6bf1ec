"""A generation as the executor's inner parts see it: tokens, pages, sampling parameters.

`tokens` is the prompt and what was sampled since; the first `num_computed` of them have keys and
values in the pages of `pages`. The scheduler alone changes pages and `num_computed`; the runner's
results are appended by the engine.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch

from .grammar import Constraint
from .prefix import extend_names
from .restore import Restore
from .table import PageTable

Kind = Literal["generate", "score", "embed"]


@dataclass(frozen=True)
class ResolvedSampling:
    """Sampling with every default filled in; `temperature` 0 is greedy, `top_k` 0 no bound."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    logprobs: int | None = None

    @property
    def has_penalties(self) -> bool:
        """Whether what was said before changes the odds."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (
            1.0,
            0.0,
            0.0,
        )


@dataclass(eq=False)
class Sequence:
    """One generation's tokens and the table of its pages."""

    id: int
    tokens: list[int]
    sampling: ResolvedSampling
    root: bytes
    owner: int = 0
    num_prompt: int = 0
    pages: PageTable = field(default_factory=PageTable)
    num_computed: int = 0
    num_cached: int | None = None  # prompt tokens found in pages when it was first admitted
    names: list[bytes] = field(default_factory=list)
    num_named: int = 0  # pages of the table that have their name
    restore: Restore | None = None  # pages on their way up for it, while it waits
    counts: torch.Tensor | None = None  # [2, vocabulary]: in the prompt, in the output
    num_counted: int = 0
    constraint: Constraint | None = None
    kind: Kind = "generate"

    def __post_init__(self) -> None:
        self.num_prompt = len(self.tokens)

    @property
    def num_left(self) -> int:
        """Tokens without keys and values; 1 when decoding."""
        return len(self.tokens) - self.num_computed

    @property
    def num_skippable(self) -> int:
        """Tokens that need not be computed where their keys and values are found in pages."""
        if self.kind == "embed":
            return 0
        return len(self.tokens) - 1 if self.kind == "generate" else self.num_prompt - 1

    @property
    def num_completion(self) -> int:
        """Tokens sampled so far."""
        return len(self.tokens) - self.num_prompt

    def extend_names(self, page_size: int, num_tokens: int) -> None:
        """Let `names` have at least the full pages of the first `num_tokens` tokens."""
        extend_names(self.names, self.root, self.tokens, page_size=page_size, num_tokens=num_tokens)

    def name_pages(self, page_size: int, num_tokens: int) -> list[bytes]:
        """The names of the full pages of the first `num_tokens` tokens."""
        self.extend_names(page_size, num_tokens)
        return self.names[: num_tokens // page_size]

    def count_tokens(self, num_vocabulary: int, device: torch.device) -> torch.Tensor:
        """How often each token stands in the prompt and in the output: [2, vocabulary]."""
        if self.counts is None:
            self.counts = torch.zeros(2, num_vocabulary, device=device)
        for index in range(self.num_counted, len(self.tokens)):
            self.counts[int(index >= self.num_prompt), self.tokens[index]] += 1
        self.num_counted = len(self.tokens)
        return self.counts
