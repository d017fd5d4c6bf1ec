"""What the kernel says about processes that wait, turned into what their pages are worth.

A hint names a process, not pages: its generations have ended by then. So the names of the pages of
each owner's last generations are remembered, and forgotten for the owners heard of longest ago.
"""

from collections.abc import Sequence

from .pages import PagePool
from .protocol import Hint
from .swap import Swap
from .worth import IDLE_SECONDS

MAX_NAMES = 1 << 17
_NUM_GENERATIONS = 8
_LONG_SECONDS = 30.0


class Owners:
    """The names of the pages that each owner left behind."""

    def __init__(self, pool: PagePool, swap: Swap) -> None:
        self._pool, self._swap = pool, swap
        self._generations: dict[int, list[Sequence[bytes]]] = {}  # heard of longest ago first
        self._num_names = 0

    def remember(self, owner: int, names: Sequence[bytes]) -> None:
        """A generation of this owner has ended, with these pages."""
        before = self._forget(owner)
        kept = [one for one in before if not _begins_with(names, one)][1 - _NUM_GENERATIONS :]
        self._generations[owner] = [*kept, names]
        self._num_names += sum(map(len, self._generations[owner]))
        while self._num_names > MAX_NAMES:
            self._forget(next(iter(self._generations)))

    def _forget(self, owner: int) -> list[Sequence[bytes]]:
        generations = self._generations.pop(owner, [])
        self._num_names -= sum(map(len, generations))
        return generations

    def apply(self, hint: Hint) -> None:
        """Give the owner's idle pages their worth; a long wait has them copied to disk."""
        is_gone = hint.kind == "gone"
        seconds = hint.expected_idle_seconds
        idle = None if is_gone else IDLE_SECONDS[hint.kind] if seconds is None else seconds
        for names in self._generations.get(hint.owner, ()):
            self._pool.expect_idle(names, hint.owner, idle)
            if idle is None:
                self._swap.forget(self._list_private(names, hint.owner))
            elif idle >= _LONG_SECONDS:
                self._swap.mark(names)
        if is_gone:
            self._forget(hint.owner)

    def _list_private(self, names: Sequence[bytes], owner: int) -> list[bytes]:
        """Those of these names that nobody else is known to share."""
        private = []
        for name in names:
            page = self._pool.find(name)
            content = None if page is None else self._pool.get_content(page)
            if content is None or (content.owner == owner and not content.num_shared):
                private.append(name)
        return private


def _begins_with(names: Sequence[bytes], start: Sequence[bytes]) -> bool:
    """Whether a sequence goes on from another: names digest all before them."""
    return not start or (len(names) >= len(start) and names[len(start) - 1] == start[-1])
