"""Who waits for pages that come up, and for how long."""

import numpy as np

from llmos.kernel.executor.host import HostTier
from llmos.kernel.executor.restore import Restore, Restorer

PAGE = np.zeros(4, np.uint8)


def test_a_restore_is_done_when_nothing_is_missing() -> None:
    restore = Restore([b"a"], deadline=1e18, missing={b"a"})
    was_done = restore.is_done

    restore.missing.discard(b"a")

    assert (was_done, restore.is_done) == (False, True)


def test_nobody_waits_beyond_the_deadline() -> None:
    assert Restore([b"a"], deadline=0.0, missing={b"a"}).is_done


def test_pages_on_the_host_are_there_at_once() -> None:
    host = HostTier(2)
    host.put(b"a", 1.0, PAGE)
    restorer = Restorer(host, None)

    restore = restorer.begin([b"a"])

    assert (restorer.has(b"a"), restorer.has(b"b")) == (True, False)
    assert (restore.is_done, restore.buffers, restore.tiers) == (True, {b"a": PAGE}, {b"a": "host"})
    assert restorer.collect() == []
