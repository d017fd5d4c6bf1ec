"""The page table's bookkeeping: which page is free, referenced or cached.

A page is a fixed number of token positions in every layer's pool. Each page is exactly one of
* free: on the free list, its content worthless;
* referenced: named by one or more sequences' tables, with that count;
* cached: referenced by nobody, but its content has a name and may be wanted again.
A name is given to a page at most once and found by `find`. Cached pages are given up in order of
their worth (see worth.py). Only the scheduler calls what changes state; no tensor is touched here.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .eviction import EvictionOrder
from .worth import GONE, ComputeCost


class OutOfPages(Exception):
    """There are not as many free and cached pages as were asked for."""


@dataclass(slots=True)
class Content:
    """What a named page holds: page `index` of a sequence, last used for `owner`."""

    name: bytes
    index: int
    owner: int
    num_shared: int = 0  # how often another owner took it over
    rank: float = GONE


class PagePool:
    """Counts and names of `num_pages` pages, numbered from 0.

    `on_evict` is told of each page that loses its content, while the content is still there.
    """

    def __init__(
        self,
        num_pages: int,
        *,
        cost: ComputeCost | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.num_pages = num_pages
        self.on_evict: Callable[[int, Content], None] = lambda page, content: None
        self._cost = cost or ComputeCost(page_size=16, num_pages=num_pages)
        self._clock = clock
        self._free = list(range(num_pages - 1, -1, -1))  # low numbers first: untouched memory last
        self._counts = [0] * num_pages
        self._contents: dict[int, Content] = {}
        self._pages: dict[bytes, int] = {}
        self._cached: EvictionOrder[int] = EvictionOrder()

    @property
    def num_free(self) -> int:
        """Pages without worthwhile content."""
        return len(self._free)

    @property
    def num_cached(self) -> int:
        """Pages that nobody references and that may be evicted."""
        return len(self._cached)

    @property
    def num_available(self) -> int:
        """Pages that `allocate` could give."""
        return len(self._free) + len(self._cached)

    def allocate(self, num_pages: int) -> list[int]:
        """Pages with one reference each, the cached ones of least worth evicted if need be.

        Raises OutOfPages, having changed nothing.
        """
        if num_pages > self.num_available:
            raise OutOfPages
        while len(self._free) < num_pages:
            self._evict()
        pages = [self._free.pop() for _ in range(num_pages)]
        for page in pages:
            self._counts[page] = 1
        return pages

    def _evict(self) -> None:
        self._drop(self._cached.pop())

    def _drop(self, page: int) -> None:
        """Free a page that was cached."""
        content = self._contents.pop(page)
        del self._pages[content.name]
        self._free.append(page)
        self.on_evict(page, content)

    def find(self, name: bytes) -> int | None:
        """The page of this name, if its content is still there."""
        return self._pages.get(name)

    def get_content(self, page: int) -> Content | None:
        """What a page holds, if that has a name."""
        return self._contents.get(page)

    def hold(self, page: int, owner: int = 0) -> None:
        """One more reference to a page that is referenced or cached."""
        self._counts[page] += 1
        self._cached.discard(page)
        content = self._contents.get(page)
        if content and content.owner != owner:
            content.owner = owner
            content.num_shared += 1

    def release(self, pages: Sequence[int]) -> None:
        """One reference less to each. The last page of a table is the first to be evicted."""
        rank, now = GONE, self._clock()
        for page in reversed(pages):
            self._counts[page] -= 1
            content = self._contents.get(page)
            if content:
                own = self._cost.rank(content.index, content.num_shared, now, 0.0)
                rank = content.rank = max(rank, own, content.rank)
            if self._counts[page] == 0:
                if content:
                    self._cached.put(page, rank)
                else:
                    self._free.append(page)

    def expect_idle(self, names: Sequence[bytes], owner: int, idle_seconds: float | None) -> None:
        """The owner of a sequence will not want it for so long; None is never again.

        Pages that others share, and those in use, keep their rank.
        """
        rank, now = GONE, self._clock()
        for page in reversed([self._pages[name] for name in names if name in self._pages]):
            content = self._contents[page]
            if content.owner == owner and not content.num_shared and page in self._cached:
                if idle_seconds is not None:
                    own = self._cost.rank(content.index, 0, now, idle_seconds)
                    rank = max(rank, own)
                content.rank = rank
                self._cached.put(page, rank)

    def give_name(self, page: int, name: bytes, *, index: int = 0, owner: int = 0) -> int:
        """Name a referenced page's content; returns the page that now holds it.

        When another page has this name already, the caller's reference moves to that one.
        """
        known = self._pages.setdefault(name, page)
        if known == page:
            self._contents[page] = Content(name, index, owner)
            return page
        self.hold(known, owner)
        self.release([page])
        return known

    def count_needed_to_hold(self, pages: Iterable[int]) -> int:
        """How many of these pages are cached: holding them takes them from what is available."""
        return sum(page in self._cached for page in pages)

    def shrink(self, num_pages: int) -> None:
        """Give up the pages from this number on, none of which is referenced."""
        for page in range(num_pages, self.num_pages):
            if page in self._cached:
                self._cached.discard(page)
                self._drop(page)
        self._free = [page for page in self._free if page < num_pages]
        del self._counts[num_pages:]
        self.num_pages = num_pages
        self._cost.resize(num_pages)

    def count_by_owner(self) -> Counter[int]:
        """Pages with a name, by who used them last."""
        return Counter(content.owner for content in self._contents.values())

    def check_integrity(self, tables: Iterable[Sequence[int]]) -> None:
        """Raise AssertionError unless every page is free, referenced or cached, exactly once,
        and the counts equal the tables that name each page."""
        listed = Counter(page for table in tables for page in table)
        referenced = {page for page in range(self.num_pages) if self._counts[page]}
        free, cached = set(self._free), set(self._cached)
        _require(len(free) == len(self._free), "a page is free twice")
        _require(not free & cached, "a page is free and cached")
        _require(not (free | cached) & referenced, "a page is referenced and free or cached")
        _require(len(free) + len(cached) + len(referenced) == self.num_pages, "a page is lost")
        for page in range(self.num_pages):
            _require(self._counts[page] == listed[page], f"page {page} is miscounted")
        _require(cached <= self._contents.keys(), "a cached page has no name")
        _require(not free & self._contents.keys(), "a free page has a name")
        named = {content.name: page for page, content in self._contents.items()}
        _require(named == self._pages, "names and pages differ")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)
