"""Pages on their way up from the host or the disk, and who waits for them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from .disk import DiskTier, Outcome
from .host import HostTier
from .pagebytes import Buffer

_PATIENCE_SECONDS = 10.0


@dataclass(eq=False)
class Restore:
    """Pages that a sequence wants, by name. What has not come by the deadline, it computes."""

    names: Sequence[bytes]
    deadline: float
    buffers: dict[bytes, Buffer] = field(default_factory=dict)
    missing: set[bytes] = field(default_factory=set)
    tiers: dict[bytes, str] = field(default_factory=dict)

    @property
    def is_done(self) -> bool:
        """Whether nothing more is waited for."""
        return not self.missing or time.monotonic() > self.deadline


class Restorer:
    """Brings pages up: those on the host at once; a file is read once for all who wait."""

    def __init__(self, host: HostTier, disk: DiskTier | None) -> None:
        self._host, self._disk = host, disk
        self._waiting: dict[bytes, list[Restore]] = {}

    def has(self, name: bytes) -> bool:
        """Whether a page is on the host or on the disk."""
        return self._host.get(name) is not None or (self._disk is not None and name in self._disk)

    def begin(self, names: Sequence[bytes]) -> Restore:
        """Bring these pages up, all of which `has` has."""
        restore = Restore(names, time.monotonic() + _PATIENCE_SECONDS)
        for name in names:
            buffer = self._host.get(name)
            restore.tiers[name] = "disk" if buffer is None else "host"
            if buffer is None and self._disk is not None:
                buffer = self._disk.get_unwritten(name)
            if buffer is None:
                self._read(name, restore)
            else:
                restore.buffers[name] = buffer
        return restore

    def _read(self, name: bytes, restore: Restore) -> None:
        restore.missing.add(name)
        if name not in self._waiting and self._disk is not None:
            self._disk.read(name)
        self._waiting.setdefault(name, []).append(restore)

    def collect(self) -> list[Outcome]:
        """Hand out what the disk has brought; what that was."""
        outcomes = self._disk.collect() if self._disk is not None else []
        for outcome in outcomes:
            for restore in self._waiting.pop(outcome.name, ()):
                restore.missing.discard(outcome.name)
                if outcome.buffer is not None:
                    restore.buffers[outcome.name] = outcome.buffer
        return outcomes
