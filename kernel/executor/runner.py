"""One step on the device: pack the work into one row, run the model, sample.

The model sees one row of tokens with explicit positions; which tokens may see which is the
attention function's affair. Logits are computed only where they are read.
"""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from itertools import accumulate
from typing import Any

import numpy as np
import torch

from .attention import Chunk, Step, using
from .batch import Numbers, Work, pack
from .masks import MaskMaker, PendingMasks
from .meter import Meter
from .model import Model
from .pools import make_decoder, make_pool
from .reading import Pooled, Reading, Sampled, find_rows, measure, read_scores
from .sampler import sample
from .shortage import is_out_of_memory


class Runner:
    """The model and its pool of keys and values."""

    def __init__(
        self, model: Model, meter: Meter, *, num_pages: int, page_size: int, max_running: int
    ) -> None:
        self._model = model
        self._meter = meter
        self._page_size = page_size
        self._masks = MaskMaker()
        self._hidden = torch.empty(0)
        self.pool = make_pool(model, num_pages=num_pages, page_size=page_size)
        self._decoder = make_decoder(model, self.pool, max_running=max_running)

    def capture(self) -> int:
        """Record decode steps where the device can replay them; how many are recorded."""
        return self._decoder.capture() if self._decoder else 0

    @torch.inference_mode()
    def run(
        self, works: Seq[Work], meanwhile: Callable[[], None] = lambda: None
    ) -> list[Reading | None]:
        """Compute the work, single tokens first; what each work gives, if it gives anything.

        `meanwhile` is called when the forward pass has been launched: a device that works on its
        own computes while it runs.
        Keys and values of all tokens are in their pages afterwards.
        """
        self._meter.enter("pack")
        starts = list(accumulate((work.num_tokens for work in works[:-1]), initial=0))
        wanted = [find_rows(work) for work in works]
        sampled = [index for index, work in enumerate(works) if _samples(work)]
        masks = self._masks.begin([works[index].sequence for index in sampled])
        if self._decoder is not None and self._decoder.takes(works):
            self._decoder.load(works)
            self._meter.enter("forward")
            logits = self._decoder.compute_logits()
        else:
            logits = self._compute_logits(works, starts, wanted)
        meanwhile()
        self._meter.enter("sample")
        readings: list[Reading | None] = [None] * len(works)
        self._read_texts(works, wanted, logits, starts, readings)
        self._sample(works, wanted, sampled, logits, masks, readings)
        return readings

    def _compute_logits(
        self, works: Seq[Work], starts: list[int], wanted: list[range]
    ) -> torch.Tensor:
        rows = [start + row for start, rows in zip(starts, wanted, strict=True) for row in rows]
        tokens, positions, slots = pack(works, self._page_size)
        step = self._build_step(works, starts, slots)
        sent = self._send(tokens), self._send(positions), self._send(np.array(rows or [0]))
        base = self._model.network.base_model
        self._meter.enter("forward")
        with using(step), base.register_forward_hook(self._keep_hidden):
            return self._model.compute_logits(*sent)

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
        indices: list[int],
        logits: torch.Tensor,
        masks: PendingMasks | None,
        readings: list[Reading | None],
    ) -> None:
        """The next token of each generation whose tokens are all computed."""
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

    def _build_step(self, works: Seq[Work], starts: list[int], slots: Numbers) -> Step:
        chunks = [
            Chunk(row, work.num_tokens, work.sequence.num_computed, work.sequence.pages.numbers)
            for row, work in zip(starts, works, strict=True)
        ]
        return Step(self.pool, slots, sum(work.num_tokens == 1 for work in works), chunks)

    def forget_step(self) -> None:
        """Give back the memory that a step which failed still holds."""
        self._hidden = torch.empty(0)
        self.pool.resize(self.pool.num_pages)
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()

    def shrink(self, num_pages: int) -> list[torch.Tensor]:
        """Keep the first so many pages; the tensors that hold them.

        Memory is given back if nobody else holds the tensors before.
        """
        pool = self.pool
        if self._decoder is not None:
            self._decoder.forget_recordings()
        for tensors in (pool.keys, pool.values):
            for index in range(len(tensors)):
                tensors[index] = _cut(tensors[index], pool.num_pages, num_pages)
        pool.resize(num_pages)
        return [*pool.keys, *pool.values]

    def close(self) -> None:
        """End the runner's thread."""
        self._masks.close()

    def _keep_hidden(self, module: Any, arguments: Any, output: Any) -> None:
        """The last hidden states of the forward pass, [1, tokens, hidden]."""
        self._hidden = output[0]

    def _send(self, numbers: Numbers) -> torch.Tensor:
        return torch.from_numpy(numbers).to(self._model.device)


def _cut(tensor: torch.Tensor, num_pages: int, num_left: int) -> torch.Tensor:
    """A tensor's first pages, in memory of their own unless there is none even for that."""
    first = tensor[: len(tensor) // num_pages * num_left]
    try:
        return first.clone()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return first


def _samples(work: Work) -> bool:
    return work.is_last and work.sequence.kind == "generate"
