"""One step on the device: pack the work into one row, run the model, sample.

The model sees one row of tokens with explicit positions; which tokens may see which is the
attention function's affair. Logits are computed only where they are read.
"""

from collections.abc import Sequence as Seq
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .attention import Chunk, Step, using
from .batch import Work
from .masks import MaskMaker, PendingMasks
from .model import Model
from .padded import PaddedDecoder
from .pools import AnyPool, make_pool, make_triton_pool
from .reading import Pooled, Reading, Sampled, find_rows, measure, read_scores
from .sampler import sample


class Runner:
    """The model and its pool of keys and values."""

    def __init__(self, model: Model, *, num_pages: int, page_size: int, max_running: int) -> None:
        self._model = model
        self._page_size = page_size
        self._masks = MaskMaker()
        self._hidden = torch.empty(0)
        model.network.base_model.register_forward_hook(self._keep_hidden)
        self.pool: AnyPool
        self._decoder: PaddedDecoder | None = None
        if model.is_triton:
            self.pool = pool = make_triton_pool(model, num_pages=num_pages, page_size=page_size)
            self._decoder = PaddedDecoder(model, pool, max_running=max_running)
        else:
            self.pool = make_pool(model, num_pages=num_pages, page_size=page_size)

    def capture(self) -> int:
        """Record decode steps where the device can replay them; how many are recorded."""
        if self._decoder is None or self._model.device.type != "cuda":
            return 0
        self._decoder.capture()
        return self._decoder.num_graphs

    @torch.inference_mode()
    def run(self, works: Seq[Work]) -> list[Reading | None]:
        """Compute the work, single tokens first; what each work gives, if it gives anything.

        Keys and values of all tokens are in their pages afterwards.
        """
        counts = np.array([work.num_tokens for work in works])
        starts = counts.cumsum() - counts
        wanted = [find_rows(work) for work in works]
        masks = self._masks.begin([work.sequence for work in works if _samples(work)])
        if self._decoder is not None and self._decoder.takes(works):
            logits = self._decoder.compute_logits(works)
        else:
            logits = self._compute_logits(works, counts, wanted)
        readings: list[Reading | None] = [None] * len(works)
        self._read_texts(works, wanted, logits, starts.tolist(), readings)
        self._sample(works, wanted, logits, masks, readings)
        return readings

    def _compute_logits(
        self, works: Seq[Work], counts: NDArray[np.int64], wanted: list[range]
    ) -> torch.Tensor:
        starts = counts.cumsum() - counts
        rows = [start + row for start, rows in zip(starts, wanted, strict=True) for row in rows]
        tokens = np.array([token for work in works for token in work.tokens], np.int64)
        positions = np.concatenate([work.positions for work in works])
        with using(self._build_step(works, counts)):
            return self._model.compute_logits(
                self._send(tokens), self._send(positions), self._send(np.array(rows or [0]))
            )

    def _read_texts(
        self,
        works: Seq[Work],
        wanted: list[range],
        logits: torch.Tensor,
        starts: list[int],
        readings: list[Reading | None],
    ) -> None:
        """What is scored and what is embedded."""
        row = 0
        for index, (work, rows) in enumerate(zip(works, wanted, strict=True)):
            if work.sequence.kind == "score" and rows:
                readings[index] = read_scores(work, rows, logits[row : row + len(rows)])
            if work.sequence.kind == "embed":
                hidden = self._hidden[0, starts[index] : starts[index] + work.num_tokens]
                readings[index] = Pooled(work.sequence.num_computed, hidden.float().sum(0))
            row += len(rows)

    def _sample(
        self,
        works: Seq[Work],
        wanted: list[range],
        logits: torch.Tensor,
        masks: PendingMasks | None,
        readings: list[Reading | None],
    ) -> None:
        """The next token of each generation whose tokens are all computed."""
        indices = [index for index, work in enumerate(works) if _samples(work)]
        if not indices:
            return
        if len(indices) < len(logits):
            ends = np.array([len(rows) for rows in wanted]).cumsum() - 1
            logits = logits[self._send(ends[indices])]
        sequences = [works[index].sequence for index in indices]
        told = [row for row, one in enumerate(sequences) if one.sampling.logprobs is not None]
        plain = logits[told] if told else logits[:0]  # a copy: masks change the logits in place
        tokens = sample(masks.hide(logits) if masks else logits, sequences)
        num_top = [sequences[row].sampling.logprobs or 0 for row in told]
        measured = measure(plain, [tokens[row] for row in told], num_top)
        likelihoods = dict(zip(told, measured, strict=True))
        for row, index in enumerate(indices):
            readings[index] = Sampled(tokens[row], likelihoods.get(row))

    def _build_step(self, works: Seq[Work], counts: NDArray[np.int64]) -> Step:
        starts = counts.cumsum() - counts
        chunks = [
            Chunk(row, work.num_tokens, work.sequence.num_computed, work.sequence.pages.numbers)
            for row, work in zip(starts.tolist(), works, strict=True)
        ]
        slots = np.concatenate([work.find_slots(self._page_size) for work in works])
        return Step(self.pool, slots, int((counts == 1).sum()), chunks)

    def close(self) -> None:
        """End the runner's thread."""
        self._masks.close()

    def _keep_hidden(self, module: Any, arguments: Any, output: Any) -> None:
        """The last hidden states of the forward pass, [1, tokens, hidden]."""
        self._hidden = output[0]

    def _send(self, numbers: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(numbers).to(self._model.device)


def _samples(work: Work) -> bool:
    return work.is_last and work.sequence.kind == "generate"
