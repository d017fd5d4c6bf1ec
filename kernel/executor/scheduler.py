"""Who runs in the next step: decodes first, then prefill chunks, under a budget of tokens.

Running sequences hold pages for every computed token; waiting ones hold none. When a running
sequence finds no page, the newest running one gives its pages up and waits at the front of the
line; on return it finds them again by name, on the device or below, or computes them anew. Whose
pages are being read from disk is put aside, and comes back to the front of the line. Invariant:
with the pool at least as large as one whole window, the oldest sequence always gets on.
"""

from collections import Counter, deque

from .batch import Work
from .pages import OutOfPages, PagePool
from .placement import Placement
from .sequence import Sequence
from .swap import Swap


class Scheduler:
    """The queues, and the only one who gives and takes pages."""

    def __init__(
        self,
        pool: PagePool,
        *,
        page_size: int,
        max_running: int,
        max_step_tokens: int,
        swap: Swap | None = None,
    ) -> None:
        self.pool = pool
        self._placement = Placement(pool, swap)
        self.page_size = page_size
        self._limits = self.max_running, self.max_step_tokens = max_running, max_step_tokens
        self.running: list[Sequence] = []
        self.waiting: deque[Sequence] = deque()
        self.loading: list[Sequence] = []
        self.paused: dict[int, Sequence] = {}
        self.num_preemptions = 0
        self.num_tokens: Counter[str] = Counter()  # by kind, see StatsReply

    @property
    def has_work(self) -> bool:
        """Whether a step would compute something."""
        return bool(self.running or self.waiting or self.loading)

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
        elif sequence in self.loading:
            self.loading.remove(sequence)
        sequence.restore = None

    def _release(self, sequence: Sequence) -> None:
        self.pool.release(list(sequence.pages))
        sequence.pages.clear()
        sequence.num_computed = sequence.num_named = 0

    def plan(self) -> list[Work]:
        """The next step's work: decodes, then chunks, in order of arrival."""
        self._take_back_loaded()
        works: list[Work] = []
        budget = self.max_step_tokens
        num_preemptions = self.num_preemptions
        for sequence in [one for one in self.running if one.num_left == 1]:
            if budget and sequence.pages and self._grow(sequence, 1):
                works.append(Work(sequence, 1))
                budget -= 1
        for sequence in [one for one in self.running if one.num_left > 1]:
            num_tokens = min(budget, sequence.num_left)
            if num_tokens and sequence.pages and self._grow(sequence, num_tokens):
                works.append(Work(sequence, num_tokens))
                budget -= num_tokens
        while budget and self.num_preemptions == num_preemptions:
            admitted = self._admit(budget)
            if admitted is None:
                break
            works.append(Work(admitted, min(budget, admitted.num_left)))
            budget -= works[-1].num_tokens
        return sorted(
            (work for work in works if work.sequence.pages),  # the preempted have none
            key=lambda work: work.num_tokens > 1,
        )

    def _grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Give a running sequence the pages for its next tokens; False if it was preempted."""
        while True:
            try:
                self._allocate(sequence, num_tokens)
                return True
            except OutOfPages:
                if self._preempt_newest() is sequence:
                    return False

    def _preempt_newest(self) -> Sequence:
        newest = self.running.pop()
        self._release(newest)
        self.waiting.appendleft(newest)
        self.num_preemptions += 1
        return newest

    def narrow(self, num_tokens: int) -> None:
        """No more tokens a step than this, and no more running: the newest are preempted."""
        self.max_step_tokens = num_tokens
        self.max_running = min(self.max_running, num_tokens)
        while len(self.running) > self.max_running:
            self._preempt_newest()

    def widen(self, *, at_once: bool = False) -> None:
        """Take back half of what `narrow` took, or all of it."""
        max_running, max_step_tokens = self._limits
        self.max_running = max_running if at_once else min(max_running, 2 * self.max_running)
        self.max_step_tokens = (
            max_step_tokens if at_once else min(max_step_tokens, 2 * self.max_step_tokens)
        )

    def shrink(self, num_pages: int) -> None:
        """Do with the first so many pages; the newest are preempted until they are enough."""
        while any((one.pages.numbers >= num_pages).any() for one in self.running):
            self._preempt_newest()
        self.pool.shrink(num_pages)

    def _allocate(self, sequence: Sequence, num_tokens: int) -> None:
        num_pages = -(-(sequence.num_computed + num_tokens) // self.page_size)
        if num_pages > len(sequence.pages):
            sequence.pages.extend(self.pool.allocate(num_pages - len(sequence.pages)))

    def _admit(self, budget: int) -> Sequence | None:
        """Move the first waiting sequence into the batch, if there is a place and room for it.

        It waits one step more when a running prefill is about to make the next page it needs; if
        that page is below the device, it is put aside and the next one's turn comes.
        """
        while self.waiting and len(self.running) + len(self.loading) < self.max_running:
            sequence = self.waiting[0]
            names = sequence.name_pages(self.page_size, sequence.num_skippable)
            found = self._placement.find_prefix(names)
            if len(found) < len(names) and self._is_in_the_making(names, len(found)):
                return None
            if not self._has_room(sequence, found):
                return None
            restore = sequence.restore or self._placement.begin_restore(names, len(found))
            if restore.is_done:
                sequence.restore = None
                self._placement.place(sequence, names, restore, self.page_size)
                self.num_tokens["cached"] += sequence.num_computed
                self._allocate(sequence, min(budget, sequence.num_left))
                self.running.append(self.waiting.popleft())
                return sequence
            sequence.restore = restore
            self.loading.append(self.waiting.popleft())
        return None

    def _has_room(self, sequence: Sequence, found: list[int]) -> bool:
        """Whether it fits beside those that run, and those that will when they are loaded."""
        num_new = self._count_pages(sequence) - len(found)
        num_promised = sum(self._count_pages(one) for one in self.loading)
        num_wanted = num_new + self.pool.count_needed_to_hold(found) + num_promised
        return num_wanted <= self.pool.num_available

    def _count_pages(self, sequence: Sequence) -> int:
        return -(-len(sequence.tokens) // self.page_size)

    def _take_back_loaded(self) -> None:
        """Sequences whose pages have come up go to the front of the line."""
        self._placement.collect()
        loaded = [one for one in self.loading if one.restore and one.restore.is_done]
        for sequence in reversed(loaded):
            self.loading.remove(sequence)
            self.waiting.appendleft(sequence)

    def _is_in_the_making(self, names: list[bytes], index: int) -> bool:
        """Whether a running prefill will fill the page `names[index]`. Equal names have equal
        places, because a name digests all that is before."""
        for one in self.running:
            if one.num_left > 1 and index >= one.num_named:
                one.extend_names(self.page_size, len(one.tokens))
                if index < len(one.names) and one.names[index] == names[index]:
                    return True
        return False

    def mark_computed(self, work: Work) -> None:
        """The work is done: name the pages that it filled."""
        sequence = work.sequence
        self.num_tokens[work.kind] += work.num_tokens
        sequence.num_computed += work.num_tokens
        num_full = sequence.num_computed // self.page_size
        if num_full == sequence.num_named:
            return
        sequence.extend_names(self.page_size, sequence.num_computed)
        for index in range(sequence.num_named, num_full):
            sequence.pages[index] = self.pool.give_name(
                sequence.pages[index], sequence.names[index], index=index, owner=sequence.owner
            )
        sequence.num_named = num_full

    def count_pages_by_owner(self) -> dict[int, int]:
        """The device's pages by the owner that used them last, those that nobody references too."""
        counts = self.pool.count_by_owner()
        for one in self.running:
            counts[one.owner] += len(one.pages) - one.num_named
        return dict(counts)

    def check_integrity(self) -> None:
        """Raise AssertionError if pages and tables disagree."""
        self.pool.check_integrity(list(sequence.pages) for sequence in self.running)
        self._placement.check_integrity()
