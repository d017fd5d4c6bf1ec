"""A tape: a journal that only answers, in the order in which calls were answered then.

It takes nothing more. A call that has no finished row on it finds that it cannot be journaled,
before it has had any effect: that is the one rule of an offline replay.
"""

from collections import deque
from collections.abc import Iterable

import anyio

from llmos.memory.db import Database
from llmos.memory.journal import JournalRow
from llmos.syscalls.errors import E_NONDETERMINISM
from llmos.syscalls.table import Syscall

from .clock import Clock
from .journal import Entry, Journal
from .process import Process

Key = tuple[str, int]


class Tape(Journal):
    """Whoever would write to it hears E_NONDETERMINISM; `refused` are the calls that did.

    A call without an effect needs no row. A `pure` one may still be refused before it begins, which
    leaves no row either. For any other one to be handled would be to have its effect.
    """

    def __init__(self, db: Database, clock: Clock) -> None:
        super().__init__(db, clock)
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
        super().__init__(tape, entry._row, begun=False)
        self._tape = tape

    async def begin(self, *, durable: bool) -> None:
        """The call would begin now."""
        raise self._tape.refuse(self._row.strand, self._row.seq)


class Turns:
    """Lets answers out in the order of the times at which their calls had ended.

    What a branch did before another one's failure ended it, or before somebody else's message came,
    it then does again.
    """

    def __init__(self, rows: Iterable[JournalRow]) -> None:
        ended = [(row.ended_at, (row.strand, row.seq)) for row in rows if row.ended_at is not None]
        ended.sort(key=lambda one: one[0])  # of equals, the one that began first
        self._order = deque(key for _, key in ended)
        self._known = set(self._order)
        self._held: dict[Key, anyio.Event] = {}

    async def wait(self, key: Key) -> None:
        """Wait until all that was answered before this call is; at once if it is not known."""
        if key not in self._known:
            return
        self._known.remove(key)
        if self._order[0] == key:
            self._order.popleft()
            self._let_out()
            return
        turn = self._held[key] = anyio.Event()
        await turn.wait()

    def _let_out(self) -> None:
        while self._order and self._order[0] in self._held:
            self._held.pop(self._order.popleft()).set()

    def let_one_out(self) -> bool:
        """Let the first that waits have its turn; False if none does."""
        first = next((key for key in self._order if key in self._held), None)
        if first is None:
            return False
        self._order.remove(first)
        self._held.pop(first).set()
        self._let_out()
        return True
