"""One step on the device: pack the work into one row, run the model, sample.

The model sees one row of tokens with explicit positions; which tokens may see which is the
attention function's affair. Logits are computed only where a token is sampled.
"""

from collections.abc import Sequence as Seq

import numpy as np
import torch
from numpy.typing import NDArray

from .attention import Chunk, Step, using
from .batch import Work
from .model import Model
from .native.pool import NativePool
from .plain import PlainPool
from .sampler import sample


class Runner:
    """The model and its pool of keys and values."""

    def __init__(self, model: Model, *, num_pages: int, page_size: int) -> None:
        self._model = model
        self._page_size = page_size
        self.pool: NativePool | PlainPool
        if model.is_native:
            self.pool = NativePool(model.layers, num_pages=num_pages)
        else:
            self.pool = PlainPool(
                model.layers,
                num_pages=num_pages,
                page_size=page_size,
                dtype=model.dtype,
                device=model.device,
            )

    @torch.inference_mode()
    def run(self, works: Seq[Work]) -> list[int | None]:
        """Compute the work, single tokens first; the sampled token of each work that `is_last`.

        Keys and values of all tokens are in their pages afterwards. A token is None where the
        model's logits are not finite.
        """
        counts = np.array([work.num_tokens for work in works])
        lasts = [index for index, work in enumerate(works) if work.is_last]
        rows = (counts.cumsum() - 1)[lasts] if lasts else counts[:1] - 1
        tokens = np.array([token for work in works for token in work.tokens], np.int64)
        positions = np.concatenate([work.positions for work in works])
        with using(self._build_step(works, counts)):
            logits = self._model.compute_logits(
                self._send(tokens), self._send(positions), self._send(rows)
            )
        return sample(logits, [works[index].sequence for index in lasts]) if lasts else []

    def _build_step(self, works: Seq[Work], counts: NDArray[np.int64]) -> Step:
        starts = counts.cumsum() - counts
        chunks = [
            Chunk(row, work.num_tokens, work.sequence.num_computed, work.sequence.pages.numbers)
            for row, work in zip(starts.tolist(), works, strict=True)
        ]
        slots = np.concatenate([work.find_slots(self._page_size) for work in works])
        return Step(self.pool, slots, int((counts == 1).sum()), chunks)

    def _send(self, numbers: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(numbers).to(self._model.device)
