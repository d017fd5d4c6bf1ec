"""The host's tier: what leaves when it is full."""

import numpy as np
import pytest

from llmos.kernel.executor.host import HostTier
from llmos.kernel.executor.pagebytes import Buffer
from llmos.kernel.executor.worth import GONE


def make_buffer(number: int) -> Buffer:
    return np.full(4, number, np.uint8)


def make_tier() -> HostTier:
    """Room for two, with pages a (rank 2) and b (rank 1)."""
    host = HostTier(2)
    host.put(b"a", 2.0, make_buffer(1))
    host.put(b"b", 1.0, make_buffer(2))
    return host


def test_the_page_of_least_worth_leaves_for_a_better_one() -> None:
    host = make_tier()

    left = host.put(b"c", 3.0, make_buffer(3))

    assert [name for name, _ in left] == [b"b"]
    assert host.get(b"b") is None
    host.check_integrity()


def test_a_page_of_less_worth_than_all_does_not_get_in() -> None:
    host = make_tier()

    left = host.put(b"c", 0.0, make_buffer(3))

    assert [name for name, _ in left] == [b"c"]


def test_a_page_whose_owner_is_gone_leaves_first() -> None:
    host = make_tier()
    host.rank(b"a", GONE)

    left = host.put(b"c", 3.0, make_buffer(3))

    assert [name for name, _ in left] == [b"a"]


def test_a_tier_without_room_keeps_nothing() -> None:
    host = HostTier(0)

    ((name, _),) = host.put(b"a", 2.0, make_buffer(1))

    assert (name, host.num_pages) == (b"a", 0)


def test_an_order_that_lost_a_page_is_noticed() -> None:
    host = make_tier()
    host._order.discard(b"a")

    with pytest.raises(AssertionError):
        host.check_integrity()
