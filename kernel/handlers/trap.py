"""The trap: what a handler sees of the call it handles, and what it may hand back."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from llmos.memory.db import Connection

from ..machine import Machine
from ..process import Process


@dataclass(slots=True)
class Trap:
    """One call in the kernel.

    A `pure` call's handler calls `begin` when it has found nothing to refuse: from then on the call
    has a row. `arguments` is what a tool is called with, decoded, and else the call. `partial` is
    text made so far, for a call that is cancelled.
    """

    machine: Machine
    process: Process
    strand: str
    seq: int
    started_at: float
    send_text: Callable[[str], Awaitable[None]]
    begin: Callable[[], Awaitable[None]]
    arguments: msgspec.Struct
    partial: str | None = None


class Effect(msgspec.Struct, frozen=True):
    """What a transactional call does: `apply` inside the transaction that also writes its row.

    `after` runs when the transaction is durable: the place for what leaves the kernel.
    """

    apply: Callable[[Connection], msgspec.Struct]
    after: Callable[[Any], None] | None = None
