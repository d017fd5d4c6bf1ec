"""A tape: a journal that only answers, in the order in which calls were answered then.

It takes nothing more. A call that has no finished row on it finds that it cannot be journaled,
before it has had any effect: that is the one rule of an offline replay.
"""

from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio

from llmos.memory.journal import JournalRow
from llmos.syscalls.errors import E_NONDETERMINISM
from llmos.syscalls.table import Syscall

from .journal import Entry, Journal
from .process import Process

Key = tuple[str, int]


class Tape(Journal):
    """Whoever would write to it hears E_NONDETERMINISM; `refused` are the calls that did.

    A call without an effect needs no row. A `pure` one may still be refused before it begins, which
    leaves no row either. For any other one to be handled would be to have its effect.
    """

    def __init__(self, journal: Journal) -> None:
        super().__init__(journal.db, journal.clock, journal.limits)
        self.refused: set[Key] = set()

    def entry(
        self,
        process: Process,
        strand: str,
        seq: int,
        row: Syscall,
        effect: str,
        digest: bytes,
        recorded: JournalRow | None = None,
    ) -> Entry:
        """The entry of a call that no finished row answers."""
        if effect == "null":
            return super().entry(process, strand, seq, row, effect, digest)
        if effect == "pure" and recorded is None:
            return _Unwritable(self, super().entry(process, strand, seq, row, effect, digest))
        raise self.refuse(strand, seq)

    def refuse(self, strand: str, seq: int) -> E_NONDETERMINISM:
        """Note that a call has no answer; the error that says so."""
        self.refused.add((strand, seq))
        return E_NONDETERMINISM(f"step {strand}:{seq} is not in the journal")


class _Unwritable(Entry):
    """The entry of a call that may be refused but must not begin."""

    def __init__(self, tape: Tape, entry: Entry) -> None:
        super().__init__(tape, entry._process, entry._row, is_interrupted=False)
        self._tape = tape

    async def begin(self, *, durable: bool) -> None:
        """The call would begin now."""
        raise self._tape.refuse(self._row.strand, self._row.seq)


class Turns:
    """Lets answers out when everything has happened that had happened before them then.

    That is: calls that had begun have come, and calls that had ended are answered. So a branch does
    again what it did before another one's failure ended it.
    """

    def __init__(self, rows: Sequence[JournalRow]) -> None:
        self._events = deque(order_events(rows))
        self._unanswered = {key for is_begin, key in self._events if not is_begin}
        self._missing = {key for is_begin, key in self._events if is_begin}
        self._held: dict[Key, anyio.Event] = {}
        self._is_taken = False  # somebody has the turn

    def come(self, key: Key) -> None:
        """This call is there."""
        self._missing.discard(key)
        self._advance()

    @asynccontextmanager
    async def turn(self, key: Key) -> AsyncIterator[None]:
        """Wait for this call's turn to be answered, and have it while the context lasts.

        At once if the call had no answer then.
        """
        if key not in self._unanswered:
            yield
            return
        if not self._is_taken and self._events[0] == (False, key):
            self._unanswered.remove(key)
            self._is_taken = True
        else:
            turn = self._held[key] = anyio.Event()
            self._advance()
            await turn.wait()
        yield
        self._is_taken = False
        self._advance()

    def let_one_out(self) -> bool:
        """Let the first that waits have its turn, whatever is missing; False if none may."""
        ends = (key for is_begin, key in self._events if not is_begin)
        first = next((key for key in ends if key in self._held), None)
        if first is None or self._is_taken:
            return False
        self._let_out(first)
        return True

    def _advance(self) -> None:
        while self._events and not self._is_taken:
            is_begin, key = self._events[0]
            if is_begin and key in self._missing:
                return
            if not is_begin and key in self._unanswered:
                if key not in self._held:
                    return
                self._let_out(key)
            self._events.popleft()

    def _let_out(self, key: Key) -> None:
        self._unanswered.remove(key)
        self._held.pop(key).set()
        self._is_taken = True


def order_events(rows: Sequence[JournalRow]) -> list[tuple[bool, Key]]:
    """Begins (True) and ends of calls as they came; at one time, ends first.

    A begin is moved up to the answer that it came of, the last one in its strand and those below
    it: what else happened in between, it did not wait for, and may have been ended by.
    """
    events = [(row.started_at, True, (row.strand, row.seq)) for row in rows]
    events += [
        (row.ended_at, False, (row.strand, row.seq)) for row in rows if row.ended_at is not None
    ]
    events.sort(key=lambda event: event[:2])
    last_answers: dict[str, float] = {}
    moved = []
    for time, is_begin, (strand, seq) in events:
        moved.append(
            (last_answers.get(strand, time) if is_begin else time, is_begin, (strand, seq))
        )
        while not is_begin and strand:
            last_answers[strand] = time
            strand = strand.rpartition(".")[0]
    moved.sort(key=lambda event: event[:2])
    return [(is_begin, key) for _, is_begin, key in moved]
