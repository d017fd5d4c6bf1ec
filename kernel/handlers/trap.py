"""The trap: what a handler sees of the call it handles, and what it may hand back."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from llmos.memory.db import Connection
from llmos.syscalls.wire import Chunk

from ..journal import Entry
from ..machine import Machine
from ..process import Process

Send = Callable[[object], Awaitable[None]]


@dataclass(slots=True)
class Trap:
    """One call in the kernel.

    `arguments` is what a tool is called with, decoded, and else the call. `partial` is text made so
    far, for a call that is cancelled.
    """

    machine: Machine
    process: Process
    strand: str
    seq: int
    arguments: msgspec.Struct
    entry: Entry
    send: Send
    partial: str | None = None

    @property
    def started_at(self) -> float:
        """When the call was first made, in Unix seconds."""
        return self.entry.started_at

    async def begin(self) -> None:
        """What the handler of a `pure` call says when it has found nothing to refuse.

        From then on the call has a row.
        """
        await self.entry.begin(durable=False)

    async def send_text(self, text: str) -> None:
        """Stream a part of the reply."""
        await self.send(Chunk(self.strand, self.seq, text))


class Effect(msgspec.Struct, frozen=True):
    """What a transactional call does: `apply` inside the transaction that also writes its row.

    `after` runs when the transaction is durable: the place for what leaves the kernel.
    """

    apply: Callable[[Connection], msgspec.Struct]
    after: Callable[[Any], None] | None = None
