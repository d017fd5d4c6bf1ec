"""Pages on the host, next to the device: the middle tier. Empty where the device is the host."""

from .eviction import EvictionOrder
from .pagebytes import Buffer


class HostTier:
    """At most `num_pages` pages by name, given up by rank as on the device."""

    def __init__(self, num_pages: int) -> None:
        self.capacity = num_pages
        self._buffers: dict[bytes, Buffer] = {}
        self._order: EvictionOrder[bytes] = EvictionOrder()

    @property
    def num_pages(self) -> int:
        """Pages that are here."""
        return len(self._buffers)

    def get(self, name: bytes) -> Buffer | None:
        """A page's bytes; they stay here."""
        return self._buffers.get(name)

    def put(self, name: bytes, rank: float, buffer: Buffer) -> list[tuple[bytes, Buffer]]:
        """Take a page in; the pages that had to leave for it, perhaps itself."""
        self._buffers[name] = buffer
        self._order.put(name, rank)
        left = []
        while len(self._buffers) > self.capacity:
            name = self._order.pop()
            left.append((name, self._buffers.pop(name)))
        return left

    def rank(self, name: bytes, rank: float) -> None:
        """Give a page another rank, if it is here."""
        if name in self._buffers:
            self._order.put(name, rank)

    def check_integrity(self) -> None:
        """Raise AssertionError unless each page has one place in the order, and all fit."""
        if set(self._order) != self._buffers.keys() or len(self._buffers) > self.capacity:
            raise AssertionError("the host tier's pages and their order differ")
