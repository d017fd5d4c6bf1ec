"""A sequence's page table: which page holds which of its tokens.

Page `table[i]` holds the tokens from `i x page_size` on. The numbers stand in one array, which
attention reads as it is: a step costs the same whatever the length of the context.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray


class PageTable:
    """Page numbers in the order of the tokens."""

    def __init__(self) -> None:
        self._length = 0
        self._keep(np.zeros(16, np.int32))

    def _keep(self, numbers: NDArray[np.int32]) -> None:
        self._numbers = numbers
        self.address = numbers.ctypes.data  # of the first number; asking numpy takes a while

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[int]:
        return iter(self.numbers.tolist())

    def __getitem__(self, index: int) -> int:
        return int(self.numbers[index])

    def __setitem__(self, index: int, page: int) -> None:
        self.numbers[index] = page

    @property
    def numbers(self) -> NDArray[np.int32]:
        """The table as an array, valid until the table changes."""
        return self._numbers[: self._length]

    def extend(self, pages: Iterable[int]) -> None:
        """Add pages at the end."""
        new = list(pages)
        length = self._length + len(new)
        if length > len(self._numbers):
            self._keep(np.resize(self._numbers, max(length, 2 * len(self._numbers))))
        self._numbers[self._length : length] = new
        self._length = length

    def clear(self) -> None:
        """Forget all pages."""
        self._length = 0
