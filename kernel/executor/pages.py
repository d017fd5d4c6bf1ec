"""The page table's bookkeeping: which page is free, referenced or cached.

A page is a fixed number of token positions in every layer's pool. Each page is exactly one of
* free: on the free list, its content worthless;
* referenced: named by one or more sequences' tables, with that count;
* cached: referenced by nobody, but its content has a name and may be wanted again.
A name is given to a page at most once and found by `find`. Only the scheduler calls what changes
state; no tensor is touched here.
"""

from collections import Counter
from collections.abc import Iterable, Sequence


class OutOfPages(Exception):
    """There are not as many free and cached pages as were asked for."""


class PagePool:
    """Counts and names of `num_pages` pages, numbered from 0."""

    def __init__(self, num_pages: int) -> None:
        self.num_pages = num_pages
        self._free = list(range(num_pages - 1, -1, -1))  # low numbers first: untouched memory last
        self._counts = [0] * num_pages
        self._names: dict[int, bytes] = {}
        self._pages: dict[bytes, int] = {}
        self._cached: dict[int, None] = {}  # in order of last use, oldest first

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
        """Pages with one reference each, the least recently used cached ones evicted if need be.

        Raises OutOfPages, having changed nothing.
        """
        if num_pages > self.num_available:
            raise OutOfPages
        while len(self._free) < num_pages:
            self._evict_oldest()
        pages = [self._free.pop() for _ in range(num_pages)]
        for page in pages:
            self._counts[page] = 1
        return pages

    def _evict_oldest(self) -> None:
        page = next(iter(self._cached))
        del self._cached[page]
        del self._pages[self._names.pop(page)]
        self._free.append(page)

    def find(self, name: bytes) -> int | None:
        """The page of this name, if its content is still there."""
        return self._pages.get(name)

    def is_named(self, page: int) -> bool:
        """Whether the page's content has a name."""
        return page in self._names

    def hold(self, page: int) -> None:
        """One more reference to a page that is referenced or cached."""
        self._counts[page] += 1
        self._cached.pop(page, None)

    def release(self, pages: Sequence[int]) -> None:
        """One reference less to each. The last page of a table is the first to be evicted."""
        for page in reversed(pages):
            self._counts[page] -= 1
            if self._counts[page] == 0:
                if page in self._names:
                    self._cached[page] = None
                else:
                    self._free.append(page)

    def give_name(self, page: int, name: bytes) -> int:
        """Name a referenced page's content; returns the page that now holds it.

        When another page has this name already, the caller's reference moves to that one.
        """
        known = self._pages.setdefault(name, page)
        if known == page:
            self._names[page] = name
            return page
        self.hold(known)
        self.release([page])
        return known

    def count_needed_to_hold(self, pages: Iterable[int]) -> int:
        """How many of these pages are cached: holding them takes them from what is available."""
        return sum(page in self._cached for page in pages)

    def check_integrity(self, tables: Iterable[Sequence[int]]) -> None:
        """Raise AssertionError unless every page is free, referenced or cached, exactly once,
        and the counts equal the tables that name each page."""
        named = Counter(page for table in tables for page in table)
        referenced = {page for page in range(self.num_pages) if self._counts[page]}
        free, cached = set(self._free), set(self._cached)
        _require(len(free) == len(self._free), "a page is free twice")
        _require(not free & cached, "a page is free and cached")
        _require(not (free | cached) & referenced, "a page is referenced and free or cached")
        _require(len(free) + len(cached) + len(referenced) == self.num_pages, "a page is lost")
        for page in range(self.num_pages):
            _require(self._counts[page] == named[page], f"page {page} is miscounted")
        _require(cached <= self._names.keys(), "a cached page has no name")
        _require(not free & self._names.keys(), "a free page has a name")
        _require({n: p for p, n in self._names.items()} == self._pages, "names and pages differ")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)
