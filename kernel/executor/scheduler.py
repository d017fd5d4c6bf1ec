"""Who runs in the next step: decodes first, then prefill chunks, under a budget of tokens.

Running sequences hold pages for every computed token; waiting ones hold none. When a running
sequence finds no page, the newest running one gives its pages up and waits at the front of the
line; on return it finds them again by name or computes them anew. Invariant: with the pool at
least as large as one whole window, the oldest sequence always gets on.
"""

from collections import deque

from .batch import Work
from .pages import OutOfPages, PagePool
from .sequence import Sequence


class Scheduler:
    """The queues, and the only one who gives and takes pages."""

    def __init__(
        self, pool: PagePool, *, page_size: int, max_running: int, max_step_tokens: int
    ) -> None:
        self.pool = pool
        self.page_size = page_size
        self.max_running = max_running
        self.max_step_tokens = max_step_tokens
        self.running: list[Sequence] = []
        self.waiting: deque[Sequence] = deque()
        self.paused: dict[int, Sequence] = {}
        self.num_preemptions = 0

    @property
    def has_work(self) -> bool:
        """Whether a step would compute something."""
        return bool(self.running or self.waiting)

    def add(self, sequence: Sequence) -> None:
        """Put a new sequence at the end of the line."""
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it is; its named pages stay cached."""
        self._take(sequence)
        self.paused.pop(sequence.id, None)

    def pause(self, sequence: Sequence) -> None:
        """Take a sequence out of the line until `resume`."""
        self._take(sequence)
        self.paused[sequence.id] = sequence

    def resume(self, sequence: Sequence) -> None:
        """Put a paused sequence at the front of the line."""
        if self.paused.pop(sequence.id, None):
            self.waiting.appendleft(sequence)

    def _take(self, sequence: Sequence) -> None:
        if sequence in self.running:
            self.running.remove(sequence)
            self._release(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def _release(self, sequence: Sequence) -> None:
        self.pool.release(sequence.pages)
        sequence.pages = []
        sequence.num_computed = sequence.num_named = 0

    def plan(self) -> list[Work]:
        """The next step's work: decodes, then chunks, in order of arrival."""
        works: list[Work] = []
        budget = self.max_step_tokens
        num_preemptions = self.num_preemptions
        for sequence in [one for one in self.running if one.num_left == 1]:
            if budget and sequence in self.running and self._grow(sequence, 1):
                works.append(Work(sequence, 1))
                budget -= 1
        for sequence in [one for one in self.running if one.num_left > 1]:
            num_tokens = min(budget, sequence.num_left)
            if num_tokens and sequence in self.running and self._grow(sequence, num_tokens):
                works.append(Work(sequence, num_tokens))
                budget -= num_tokens
        while budget and self.num_preemptions == num_preemptions:
            admitted = self._admit(budget)
            if admitted is None:
                break
            works.append(Work(admitted, min(budget, admitted.num_left)))
            budget -= works[-1].num_tokens
        return sorted(
            (work for work in works if work.sequence in self.running),
            key=lambda work: work.num_tokens > 1,
        )

    def _grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Give a running sequence the pages for its next tokens; False if it was preempted."""
        while True:
            try:
                self._allocate(sequence, num_tokens)
                return True
            except OutOfPages:
                newest = self.running.pop()
                self._release(newest)
                self.waiting.appendleft(newest)
                self.num_preemptions += 1
                if newest is sequence:
                    return False

    def _allocate(self, sequence: Sequence, num_tokens: int) -> None:
        num_pages = -(-(sequence.num_computed + num_tokens) // self.page_size)
        if num_pages > len(sequence.pages):
            sequence.pages += self.pool.allocate(num_pages - len(sequence.pages))

    def _admit(self, budget: int) -> Sequence | None:
        """Move the first waiting sequence into the batch, if there is a place and room for it.

        It waits one step more when a running prefill is about to make the next page it needs.
        """
        if not self.waiting or len(self.running) >= self.max_running:
            return None
        sequence = self.waiting[0]
        found, missing = self._find_prefix(sequence)
        if missing is not None and missing in self._list_pages_in_the_making():
            return None
        num_tokens = len(sequence.tokens)
        num_new = -(-num_tokens // self.page_size) - len(found)
        if num_new + self.pool.count_needed_to_hold(found) > self.pool.num_available:
            return None
        for page in found:
            self.pool.hold(page)
        sequence.pages = found
        sequence.num_computed = len(found) * self.page_size
        sequence.num_named = len(found)
        if sequence.num_cached is None:
            sequence.num_cached = sequence.num_computed
        self._allocate(sequence, min(budget, sequence.num_left))
        self.running.append(self.waiting.popleft())
        return sequence

    def _find_prefix(self, sequence: Sequence) -> tuple[list[int], bytes | None]:
        """Cached pages of its prefix, and the name of the first that is missing.

        The last token is always computed: its logits are needed.
        """
        found: list[int] = []
        for name in sequence.name_pages(self.page_size, len(sequence.tokens) - 1):
            page = self.pool.find(name)
            if page is None:
                return found, name
            found.append(page)
        return found, None

    def _list_pages_in_the_making(self) -> set[bytes]:
        return {
            name
            for one in self.running
            if one.num_left > 1
            for name in one.name_pages(self.page_size, len(one.tokens))[one.num_named :]
        }

    def mark_computed(self, work: Work) -> None:
        """The work is done: name the pages that it filled."""
        sequence = work.sequence
        sequence.num_computed += work.num_tokens
        names = sequence.name_pages(self.page_size, sequence.num_computed)
        for index in range(sequence.num_named, len(names)):
            sequence.pages[index] = self.pool.give_name(sequence.pages[index], names[index])
        sequence.num_named = len(names)

    def check_integrity(self) -> None:
        """Raise AssertionError if pages and tables disagree."""
        self.pool.check_integrity(sequence.pages for sequence in self.running)
