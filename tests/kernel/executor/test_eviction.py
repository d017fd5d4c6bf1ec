"""The order in which keys are given up, against sorting."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.kernel.executor.eviction import EvictionOrder

PUTS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), max_size=300)


def test_the_lowest_rank_goes_first_and_equals_as_they_were_put() -> None:
    order: EvictionOrder[str] = EvictionOrder()
    for key, rank in (("b", 2.0), ("a", 1.0), ("c", 1.0)):
        order.put(key, rank)

    assert [order.pop() for _ in range(3)] == ["a", "c", "b"]


def test_the_last_rank_counts() -> None:
    order: EvictionOrder[str] = EvictionOrder()
    order.put("a", 1.0)
    order.put("b", 2.0)

    order.put("a", 3.0)

    assert [order.pop(), order.pop()] == ["b", "a"]


def test_an_empty_order_has_nothing_to_give() -> None:
    order: EvictionOrder[str] = EvictionOrder()
    order.put("a", 1.0)
    order.discard("a")

    with pytest.raises(IndexError):
        order.pop()


@given(PUTS, st.sets(st.integers(0, 9)))
def test_keys_leave_sorted_whatever_was_put_again_and_discarded(
    puts: list[tuple[int, int]], discarded: set[int]
) -> None:
    order: EvictionOrder[int] = EvictionOrder()
    expected: dict[int, tuple[int, int]] = {}
    for number, (key, rank) in enumerate(puts):
        order.put(key, rank)
        expected[key] = rank, number
    for key in discarded:
        order.discard(key)
        expected.pop(key, None)

    assert set(order) == set(expected)
    assert [order.pop() for _ in expected] == sorted(expected, key=lambda key: expected[key])
