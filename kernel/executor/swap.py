"""What moves pages between the tiers: device, host, disk.

Down, when the device gives a page up or its owner waits and there is nothing else to do; up, when
a sequence that begins with it is about to run. A page moves only where loading it takes less time
than computing it again, by what both have cost so far. Nothing here waits for the disk: a page that
comes at a bad moment is not kept, and a sequence whose pages are being read is put aside meanwhile.
"""

import itertools
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from .disk import DiskTier
from .host import HostTier
from .meter import Meter
from .pagebytes import Buffer, PageBytes
from .pages import Content, PagePool
from .restore import Restore, Restorer
from .shortage import is_out_of_memory
from .worth import GONE, ComputeCost, TransferCost

_HOST_BYTES_PER_SECOND = 4e9
_DISK_BYTES_PER_SECOND = 3e8
_COPIES_PER_REST = 8
_REST_SECONDS = 0.02


class Swap:
    """The tiers below a pool of device pages, whose bytes `store` reads and writes."""

    def __init__(
        self,
        pool: PagePool,
        store: PageBytes,
        cost: ComputeCost,
        host: HostTier,
        disk: DiskTier | None,
        meter: Meter | None = None,
    ) -> None:
        self._meter = meter or Meter()
        self._pool, self._store, self._cost = pool, store, cost
        self.host, self.disk = host, disk
        self._host_cost = TransferCost(_HOST_BYTES_PER_SECOND)
        self._disk_cost = TransferCost(_DISK_BYTES_PER_SECOND)
        self._restorer = Restorer(host, disk)
        self._marked: dict[bytes, int] = {}
        self.num_evictions: Counter[str] = Counter()
        self.num_hits: Counter[str] = Counter()
        self.num_bytes_moved: Counter[str] = Counter()
        pool.on_evict = self._take_evicted

    # Down.

    def _take_evicted(self, page: int, content: Content) -> None:
        phase = self._meter.enter("swap")
        try:
            reason = self._move_down(page, content)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            reason = "no_memory"
        self.num_evictions[reason] += 1
        self._meter.enter(phase)

    def _move_down(self, page: int, content: Content) -> str:
        """Keep a page that the device gives up, if that pays; why it was kept or not."""
        name, disk = content.name, self.disk
        if content.rank == GONE:
            return "gone"
        if not self.host.capacity and disk is None:
            return "no_tier_below"
        if self.host.get(name) is not None:
            return "kept_below"
        if not self.host.capacity and disk is not None and name in disk:
            return "kept_below"
        if not self._pays(content.index, 1, int(not self.host.capacity)):
            return "cheap_to_compute"
        if self.host.capacity:
            self._put_on_host(name, content.rank, self._read(page))
            return "to_host"
        if disk is None or not disk.has_room:
            return "disk_busy"
        self._put_on_disk(name, self._read(page))
        return "to_disk"

    def _read(self, page: int) -> Buffer:
        self.num_bytes_moved["from_device"] += self._store.page_bytes
        return self._store.read_page(page)

    def _put_on_host(self, name: bytes, rank: float, buffer: Buffer) -> None:
        for left, its_buffer in self.host.put(name, rank, buffer):
            if self.disk is not None and left not in self.disk and self.disk.has_room:
                self._put_on_disk(left, its_buffer)

    def _put_on_disk(self, name: bytes, buffer: Buffer) -> None:
        assert self.disk is not None
        self.disk.write(name, buffer)
        self.num_bytes_moved["to_disk"] += self._store.page_bytes

    def mark(self, names: Sequence[bytes]) -> None:
        """Copy these pages, the first ones of a sequence, to disk when there is nothing to do."""
        if self.disk is not None and self.disk.is_writable:
            self._marked |= {name: index for index, name in enumerate(names)}
            while len(self._marked) > self._pool.num_pages + self.host.capacity:
                del self._marked[next(iter(self._marked))]

    def rest(self) -> bool:
        """Copy a few marked pages down, or wait a moment for the disk; whether more is to do."""
        self._meter.enter("swap")
        if self.disk is None or not self.disk.is_writable:
            self._marked.clear()
            return False
        self.collect()
        for _ in range(min(_COPIES_PER_REST, len(self._marked))):
            if not self.disk.has_room:
                self.disk.wait(_REST_SECONDS)
                break
            name = next(iter(self._marked))
            self._copy_down(name, self._marked.pop(name))
        if not self._marked and self.disk.num_unwritten:
            self.disk.wait(_REST_SECONDS)
            self.collect()
        return bool(self._marked or self.disk.num_unwritten)

    def _copy_down(self, name: bytes, index: int) -> None:
        assert self.disk is not None
        if name in self.disk or not self._pays(index, 1, 1):
            return
        page, buffer = self._pool.find(name), self.host.get(name)
        if page is not None:
            buffer = self._read(page)
        if buffer is not None:
            self._put_on_disk(name, buffer)

    def forget(self, names: Iterable[bytes]) -> None:
        """These pages' owner is gone: let them be the first to go, wherever they are."""
        gone = set(names)
        for name in gone:
            self._marked.pop(name, None)
            self.host.rank(name, GONE)
        if self.disk is not None:
            self.disk.forget(gone)

    # Up.

    def begin_restore(self, names: Sequence[bytes], first_index: int) -> Restore:
        """Bring up as many of these consecutive pages as there are below, if that pays."""
        self.collect()
        found = list(itertools.takewhile(self._restorer.has, names))
        num_from_disk = sum(self.host.get(name) is None for name in found)
        if found and not self._pays(first_index, len(found), num_from_disk):
            self._host_cost.recover()
            self._disk_cost.recover()
            found = []
        return self._restorer.begin(found)

    def collect(self) -> None:
        """Hand out what the disk has brought."""
        for outcome in self._restorer.collect():
            if outcome.buffer is not None:
                self.num_bytes_moved["from_disk"] += len(outcome.buffer)
                self._disk_cost.observe(len(outcome.buffer), outcome.seconds)

    def wait(self) -> None:
        """Wait a moment for the disk: a sequence needs it, and there is nothing else to do."""
        if self.disk is not None:
            self.disk.wait(_REST_SECONDS)

    def fill(self, page: int, name: bytes, restore: Restore) -> None:
        """Write a page that has come up into a device page."""
        phase, started = self._meter.enter("swap"), time.perf_counter()
        self._store.write_page(page, restore.buffers[name])
        if self._store.is_synchronous:
            seconds = time.perf_counter() - started
            self._host_cost.observe(self._store.page_bytes, seconds)
        self.num_hits[restore.tiers[name]] += 1
        self.num_bytes_moved["to_device"] += self._store.page_bytes
        self._meter.enter(phase)

    def _pays(self, index: int, num_pages: int, num_from_disk: int) -> bool:
        """Whether loading pages, from a sequence's page `index` on, beats computing them."""
        size = self._store.page_bytes
        seconds = self._host_cost.count_seconds(num_pages * size)
        seconds += self._disk_cost.count_seconds(num_from_disk * size)
        return seconds < self._cost.count_seconds(index, num_pages)

    def describe(self) -> dict[str, Any]:
        """The fields of StatsReply that are about the tiers below."""
        return {
            "page_bytes": self._store.page_bytes,
            "num_pages_on_host": self.host.num_pages,
            "num_pages_on_disk": 0 if self.disk is None else self.disk.num_pages,
            "num_page_hits": dict(self.num_hits),
            "num_evictions": dict(self.num_evictions),
            "num_bytes_moved": dict(self.num_bytes_moved),
        }

    def detach(self) -> None:
        """Let go of the device's pools while they change."""
        self._store.detach()

    def attach(self, pools: Sequence[torch.Tensor], num_pages: int) -> None:
        """These are the device's pools now."""
        self._store.attach(pools, num_pages=num_pages)

    def check_integrity(self) -> None:
        """Raise AssertionError if a tier's index disagrees with what it holds."""
        self.host.check_integrity()
        if self.disk is not None:
            self.disk.check_integrity()

    def close(self) -> None:
        """End the disk's thread."""
        if self.disk is not None:
            self.disk.close()
