"""Keys in the order in which they are given up: by rank, and equals as they were put."""

import heapq
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
_SLACK = 64


class EvictionOrder(Generic[K]):
    """A heap of ranks. What was put again or discarded leaves a stale entry, which is skipped."""

    def __init__(self) -> None:
        self._entries: dict[K, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._num_puts = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[K]:
        return iter(self._entries)

    def put(self, key: K, rank: float) -> None:
        """Add a key, or give it another rank."""
        self._num_puts += 1
        self._entries[key] = rank, self._num_puts
        heapq.heappush(self._heap, (rank, self._num_puts, key))
        if len(self._heap) > 2 * len(self._entries) + _SLACK:
            self._heap = [(*entry, key) for key, entry in self._entries.items()]
            heapq.heapify(self._heap)

    def discard(self, key: K) -> None:
        """Take a key out, if it is in."""
        self._entries.pop(key, None)

    def pop(self) -> K:
        """Take out the first key. Raises IndexError when there is none."""
        while True:
            rank, number, key = heapq.heappop(self._heap)
            if self._entries.get(key) == (rank, number):
                del self._entries[key]
                return key
