"""Pages move down when the device needs room or their owner waits, and up when they are wanted."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from llmos.kernel.executor.disk import DiskTier
from llmos.kernel.executor.host import HostTier
from llmos.kernel.executor.pagebytes import PageBytes
from llmos.kernel.executor.pagefile import find_path
from llmos.kernel.executor.pages import PagePool
from llmos.kernel.executor.restore import Restore
from llmos.kernel.executor.swap import Swap
from llmos.kernel.executor.worth import ComputeCost

NUM_PAGES = 4
NAMES = [bytes([number]) * 16 for number in range(12)]


class Stage:
    """A device of four pages and the tiers below it."""

    def __init__(self, *, num_host_pages: int = 0, folder: Path | None = None) -> None:
        self.cost = ComputeCost(page_size=16, num_pages=NUM_PAGES)
        self.pool = PagePool(NUM_PAGES, cost=self.cost)
        self.tensor = torch.zeros(NUM_PAGES * 16, 2, 8)
        store = PageBytes([self.tensor], num_pages=NUM_PAGES)
        disk = None
        if folder:
            disk = DiskTier(
                folder,
                fingerprint="f",
                page_bytes=store.page_bytes,
                make_buffer=store.make_buffer,
            )
        self.disk = disk
        self.swap = Swap(self.pool, store, self.cost, HostTier(num_host_pages), disk)

    def fill(self, *numbers: int) -> None:
        """A sequence of pages that are filled with their numbers and then released."""
        table = self.pool.allocate(len(numbers))
        for index, (page, number) in enumerate(zip(table, numbers, strict=True)):
            self.tensor[page * 16 : (page + 1) * 16] = number
            self.pool.give_name(page, NAMES[number], index=index)
        self.pool.release(table)

    def settle(self) -> None:
        if self.disk:
            assert self.disk.drain()
        self.swap.collect()
        self.swap.check_integrity()

    def restore(self, *numbers: int) -> Restore:
        restore = self.swap.begin_restore([NAMES[number] for number in numbers], 0)
        self.settle()
        assert restore.is_done
        return restore

    def read_back(self, number: int, restore: Restore) -> set[float]:
        (page,) = self.pool.allocate(1)
        self.swap.fill(page, NAMES[number], restore)
        return set(self.tensor[page * 16 : (page + 1) * 16].flatten().tolist())


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """With a disk and no host tier, as on a CPU."""
    stage = Stage(folder=tmp_path)
    yield stage
    stage.swap.close()


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Stage]:
    """With room for two pages on the host, and a disk."""
    stage = Stage(num_host_pages=2, folder=tmp_path)
    yield stage
    stage.swap.close()


def test_what_the_device_gives_up_comes_back_from_disk(stage: Stage) -> None:
    stage.fill(0, 1, 2, 3)
    stage.fill(4, 5, 6)
    stage.settle()

    restore = stage.restore(1, 2, 3)

    assert set(restore.buffers) == {NAMES[1], NAMES[2], NAMES[3]}
    assert stage.read_back(2, restore) == {2.0}
    assert stage.swap.num_evictions == {"to_disk": 4}
    assert stage.swap.num_hits == {"disk": 1}


def test_pages_pass_through_the_host_to_the_disk(three: Stage) -> None:
    three.fill(0, 1, 2, 3)
    three.fill(4, 5, 6, 7)
    three.settle()

    restore = three.restore(0, 1, 2, 3)

    stats = three.swap.describe()
    assert (stats["num_pages_on_host"], stats["num_pages_on_disk"]) == (2, 2)
    assert sorted(restore.tiers.values()) == ["disk", "disk", "host", "host"]
    assert [three.read_back(number, restore) for number in range(4)] == [{0.0}, {1}, {2}, {3}]


def test_pages_on_the_host_need_no_waiting(three: Stage) -> None:
    three.fill(0, 1)
    three.fill(2, 3, 4, 5)

    assert three.swap.begin_restore(NAMES[:2], 0).is_done


def test_a_restore_ends_before_the_first_page_that_is_nowhere(stage: Stage) -> None:
    stage.fill(0, 1, 2, 3)
    stage.fill(4, 5, 6, 7)
    stage.settle()

    assert list(stage.restore(0, 9, 2).names) == [NAMES[0]]


def test_two_that_wait_for_a_page_read_it_once(stage: Stage) -> None:
    stage.fill(0, 1, 2, 3)
    stage.fill(4, 5, 6, 7)
    stage.settle()

    restores = [stage.swap.begin_restore(NAMES[:4], 0) for _ in range(2)]
    stage.settle()

    assert [set(one.buffers) for one in restores] == [set(NAMES[:4])] * 2
    assert stage.swap.num_bytes_moved["from_disk"] == 4 * 16 * 2 * 8 * 4


def test_a_page_that_cannot_be_read_is_missing_and_nothing_else(
    stage: Stage, tmp_path: Path
) -> None:
    stage.fill(0, 1, 2, 3)
    stage.fill(4, 5, 6, 7)
    stage.settle()
    find_path(tmp_path, NAMES[1]).write_bytes(b"damaged")

    restore = stage.restore(0, 1, 2)

    assert set(restore.buffers) == {NAMES[0], NAMES[2]}


def test_a_page_that_is_cheaper_to_compute_is_neither_kept_nor_loaded(stage: Stage) -> None:
    stage.fill(0, 1, 2, 3)
    stage.fill(4)
    stage.settle()

    for _ in range(50):
        stage.cost.observe(256, 500.0, 256 * 1e-9)
    stage.fill(5, 6, 7)

    assert stage.swap.num_evictions["cheap_to_compute"] > 0
    assert not stage.restore(3).buffers


def test_pages_whose_owner_is_gone_are_dropped_first(stage: Stage) -> None:
    stage.fill(0, 1)
    stage.fill(2, 3)

    stage.pool.expect_idle(NAMES[2:4], 0, None)
    stage.pool.allocate(2)

    assert stage.pool.find(NAMES[0]) is not None
    assert stage.swap.num_evictions == {"gone": 2}


def test_marked_pages_are_on_disk_after_a_rest_and_still_on_the_device(stage: Stage) -> None:
    stage.fill(0, 1, 2, 3)
    stage.swap.mark(NAMES[:3])

    while stage.swap.rest():
        pass
    stage.settle()

    assert [NAMES[number] in (stage.disk or ()) for number in range(4)] == [1, 1, 1, 0]
    assert stage.pool.num_cached == 4


def test_what_is_already_below_is_not_written_again(stage: Stage) -> None:
    stage.fill(0, 1, 2, 3)
    stage.swap.mark(NAMES[:4])
    while stage.swap.rest():
        pass

    stage.pool.allocate(4)

    assert stage.swap.num_evictions == {"kept_below": 4}
    assert stage.swap.num_bytes_moved["from_device"] == 4 * 16 * 2 * 8 * 4


def test_forgotten_pages_are_not_copied_down(stage: Stage) -> None:
    stage.fill(0, 1, 2, 3)
    stage.swap.mark(NAMES[:4])

    stage.swap.forget(NAMES[:4])

    assert not stage.swap.rest()
    assert stage.swap.num_bytes_moved["to_disk"] == 0


def test_without_tiers_below_pages_are_dropped() -> None:
    stage = Stage()
    stage.fill(0, 1, 2, 3)

    stage.pool.allocate(3)

    assert stage.swap.num_evictions == {"no_tier_below": 3}
    assert stage.swap.begin_restore(NAMES[:4], 0).is_done
    assert not stage.restore(3).buffers
