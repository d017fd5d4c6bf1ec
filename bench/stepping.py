"""A scheduler and a runner without text around them: token ids in, token ids out.

For models that exist in memory alone, and for what is measured without tokenizer and chat template.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from llmos.kernel.executor.engine import PAGE_SIZE
from llmos.kernel.executor.meter import Meter
from llmos.kernel.executor.model import Model
from llmos.kernel.executor.pages import PagePool
from llmos.kernel.executor.reading import Sampled
from llmos.kernel.executor.runner import Runner
from llmos.kernel.executor.scheduler import Scheduler
from llmos.kernel.executor.sequence import ResolvedSampling
from llmos.kernel.executor.sequence import Sequence as TokenSequence


@dataclass
class Answer:
    """What followed a prompt, and when each of its tokens was known, in seconds of one clock."""

    tokens: list[int] = field(default_factory=list)
    timestamps: list[float] = field(default_factory=list)


class Loop:
    """Greedy generations on a model, `max_running` at once."""

    def __init__(
        self,
        model: Model,
        *,
        num_pages: int,
        max_running: int,
        max_step_tokens: int,
        wants_graphs: bool = True,
    ) -> None:
        self.runner = Runner(
            model, Meter(), num_pages=num_pages, page_size=PAGE_SIZE, max_running=max_running
        )
        self.num_graphs = self.runner.capture() if wants_graphs else 0
        self._scheduler = Scheduler(
            PagePool(num_pages),
            page_size=PAGE_SIZE,
            max_running=max_running,
            max_step_tokens=max_step_tokens,
        )

    def generate(self, prompts: Sequence[Sequence[int]], num_new: int) -> list[Answer]:
        """What follows each prompt."""
        answers = [Answer() for _ in prompts]
        sampling = ResolvedSampling(max_tokens=num_new)
        sequences = [
            TokenSequence(number, list(prompt), sampling, b"", 0)
            for number, prompt in enumerate(prompts)
        ]
        for sequence in sequences:
            self._scheduler.add(sequence)
        while self._scheduler.has_work:
            works = self._scheduler.plan()
            readings = self.runner.run(works)
            now = time.perf_counter()
            for work, reading in zip(works, readings, strict=True):
                self._scheduler.mark_computed(work)
                if isinstance(reading, Sampled):
                    if reading.token is None:
                        raise ArithmeticError("the model's numbers are not finite")
                    work.sequence.tokens.append(reading.token)
                    answer = answers[work.sequence.id]
                    answer.tokens.append(reading.token)
                    answer.timestamps.append(now)
                    if len(answer.tokens) == num_new:
                        self._scheduler.remove(work.sequence)
        return answers

    def close(self) -> None:
        """End the runner's thread."""
        self.runner.close()
