"""The page pool's invariants, by example and by random histories."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.kernel.executor.pages import OutOfPages, PagePool

ACTIONS = st.lists(
    st.tuples(st.sampled_from(["allocate", "share", "name", "release"]), st.integers(0, 5)),
    max_size=60,
)


def test_a_page_without_a_name_is_free_again_after_its_release() -> None:
    pool = PagePool(4)

    pool.release(pool.allocate(3))

    assert (pool.num_free, pool.num_cached) == (4, 0)


def test_a_named_page_stays_cached_and_is_found() -> None:
    pool = PagePool(4)
    (page,) = pool.allocate(1)
    pool.give_name(page, b"a")

    pool.release([page])

    assert pool.find(b"a") == page
    assert (pool.num_free, pool.num_cached) == (3, 1)


def test_the_last_page_of_the_table_used_longest_ago_is_evicted_first() -> None:
    pool = PagePool(3)
    table = pool.allocate(3)
    for page, name in zip(table, (b"a", b"b", b"c"), strict=True):
        pool.give_name(page, name)
    pool.release(table)

    pool.allocate(1)

    assert pool.find(b"c") is None
    assert pool.find(b"a") is not None


def test_a_referenced_page_is_never_evicted() -> None:
    pool = PagePool(2)
    (page,) = pool.allocate(1)
    pool.give_name(page, b"a")

    with pytest.raises(OutOfPages):
        pool.allocate(2)

    assert pool.num_free == 1


def test_a_second_page_of_the_same_name_gives_way_to_the_first() -> None:
    pool = PagePool(2)
    first, second = pool.allocate(2)
    pool.give_name(first, b"a")

    kept = pool.give_name(second, b"a")

    assert kept == first
    pool.check_integrity([[first], [kept]])


def test_a_lost_reference_is_noticed() -> None:
    pool = PagePool(2)
    pool.allocate(1)

    with pytest.raises(AssertionError, match="miscounted"):
        pool.check_integrity([])


@given(ACTIONS)
def test_every_page_is_free_referenced_or_cached_exactly_once(
    actions: list[tuple[str, int]],
) -> None:
    pool = PagePool(6)
    tables: list[list[int]] = []
    for action, number in actions:
        table = tables[number % len(tables)] if tables else None
        if action == "allocate" and number <= pool.num_available:
            tables.append(pool.allocate(number))
        elif action == "share" and (page := pool.find(bytes([number]))) is not None:
            pool.hold(page)
            tables.append([page])
        elif action == "name" and table and not pool.is_named(table[-1]):
            table[-1] = pool.give_name(table[-1], bytes([number]))
        elif action == "release" and table is not None:
            tables.remove(table)
            pool.release(table)
        pool.check_integrity(tables)
