"""A step that runs out of memory is tried again with less, and at last without who is too large.

Nothing of a failed step counts: its pages are written again. What is tried next, until a step
passes:

1. the page pool is cut in half, down to one whole window: pages that somebody references are
   computed again, those that nobody does move down a tier;
2. half as many tokens a step, and no more sequences than that: the newest are preempted, so that
   in the end one token of one sequence is a step;
3. the pool is cut further;
4. whose single token does not fit is too large, and ends.

The steps grow again after a while without a fault. The pool does not: who took its memory may
still have it.
"""

from collections.abc import Sequence as Seq

from .batch import Work
from .runner import Runner
from .scheduler import Scheduler
from .sequence import Sequence
from .swap import Swap

WIDEN_STEPS = 64
CALM_STEPS = 1024


class Relief:
    """Counts faults and makes the steps after one need less memory."""

    def __init__(self, scheduler: Scheduler, runner: Runner, swap: Swap, *, min_pages: int) -> None:
        self._scheduler, self._runner, self._swap = scheduler, runner, swap
        self._min_pages = min_pages
        self._num_calm_steps = CALM_STEPS
        self.num_faults = 0

    def note_success(self) -> None:
        """A step has passed."""
        self._num_calm_steps += 1
        if self._num_calm_steps % WIDEN_STEPS == 0:
            self._scheduler.widen()

    def relieve(self, works: Seq[Work]) -> Sequence | None:
        """This step has failed: let the next one need less. Who has to end, if nothing is left."""
        was_calm = self._num_calm_steps >= CALM_STEPS
        self._num_calm_steps = 0
        self.num_faults += 1
        self._runner.forget_step()
        num_tokens = sum(work.num_tokens for work in works)
        if was_calm and self._shrink():
            return None
        if num_tokens > 1:
            self._scheduler.narrow(num_tokens // 2)
            return None
        if self._shrink():
            return None
        self._scheduler.widen(at_once=True)
        return works[0].sequence

    def _shrink(self) -> bool:
        """Cut the pool in half; whether there was anything to cut."""
        num_pages = max(self._scheduler.pool.num_pages // 2, self._min_pages)
        if num_pages >= self._scheduler.pool.num_pages:
            return False
        self._scheduler.shrink(num_pages)
        self._swap.detach()
        self._swap.attach(self._runner.shrink(num_pages), num_pages)
        return True
