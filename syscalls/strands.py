"""Strands: the logical threads of an app's calls, numbered in program order.

Whose turn is first never decides a name: main is strand `0`, and the branches that a strand begins
are its children `0.1`, `0.2` and so on, in the order in which its code begins them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from weakref import WeakValueDictionary


class Strand:
    """A logical thread of calls: its name and what was numbered so far."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.next_seq = 0
        self.next_child = 1
        self.is_deciding = False  # whether a patch has spent its number: no other call may take one
        self._num_joined = 0
        self._children: WeakValueDictionary[int, Strand] = WeakValueDictionary()

    def child(self) -> "Strand":
        """The next child strand, numbered in program order."""
        child = self._children[self.next_child] = Strand(f"{self.name}.{self.next_child}")
        self.next_child += 1
        return child

    def count_joined(self) -> int | None:
        """Children 1 to this one have ended; None if that was said before.

        A child has ended when nobody holds it: then no task can call in it any more.
        """
        before = self._num_joined
        self._num_joined = min(self._children, default=self.next_child) - 1
        return self._num_joined if self._num_joined > before else None

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """While the context lasts, only the call that decides may take a number."""
        self.is_deciding = True
        try:
            yield
        finally:
            self.is_deciding = False


current_strand: ContextVar[Strand] = ContextVar("strand")
"""The strand that a task calls in; a task without one calls in main's."""
