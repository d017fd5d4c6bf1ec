"""Gives a sequence the pages that are there already: on the device by name, or up from below.

A sequence's pages begin as those of the names that are found. The last tokens, whose page has no
name yet, are always computed.
"""

from collections.abc import Sequence as Seq

from .pages import PagePool
from .restore import Restore
from .sequence import Sequence
from .swap import Swap


class Placement:
    """Finds pages by name in the device's pool and in the tiers below, if there are any."""

    def __init__(self, pool: PagePool, swap: Swap | None) -> None:
        self._pool, self._swap = pool, swap

    def find_prefix(self, names: Seq[bytes]) -> list[int]:
        """The device's pages of these names, up to the first that is missing."""
        found: list[int] = []
        for name in names:
            page = self._pool.find(name)
            if page is None:
                break
            found.append(page)
        return found

    def begin_restore(self, names: Seq[bytes], num_found: int) -> Restore:
        """Bring up what follows the pages that were found."""
        if self._swap is None:
            return Restore((), deadline=0.0)
        return self._swap.begin_restore(names[num_found:], num_found)

    def collect(self) -> None:
        """Take in what has come up."""
        if self._swap is not None:
            self._swap.collect()

    def place(
        self, sequence: Sequence, names: Seq[bytes], restore: Restore, page_size: int
    ) -> None:
        """Give a sequence without pages those of these names that are there; there is room."""
        held = self.find_prefix(names)
        for page in held:
            self._pool.hold(page, sequence.owner)
        sequence.pages.extend(held)
        if self._swap is not None:
            self._swap.num_hits["device"] += len(held)
            self._fill(sequence, names, restore, self._swap)
        sequence.num_named = len(sequence.pages)
        sequence.num_computed = sequence.num_named * page_size
        if sequence.num_cached is None:
            sequence.num_cached = sequence.num_computed

    def _fill(self, sequence: Sequence, names: Seq[bytes], restore: Restore, swap: Swap) -> None:
        """Go on with pages that have come up, and with the device's where they meet again."""
        for index in range(len(sequence.pages), len(names)):
            name = names[index]
            page = self._pool.find(name)
            if page is not None:
                self._pool.hold(page, sequence.owner)
                swap.num_hits["device"] += 1
            elif name in restore.buffers:
                (page,) = self._pool.allocate(1)
                swap.fill(page, name, restore)
                self._pool.give_name(page, name, index=index, owner=sequence.owner)
            else:
                return
            sequence.pages.extend([page])

    def check_integrity(self) -> None:
        """Raise AssertionError if a tier below disagrees with its index."""
        if self._swap is not None:
            self._swap.check_integrity()
