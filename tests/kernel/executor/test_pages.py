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


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def fill(pool: PagePool, names: str, owner: int = 1) -> list[int]:
    """A released sequence with a page for each letter; pages that are there are shared."""
    table = []
    for index, letter in enumerate(names):
        page = pool.find(letter.encode())
        if page is None:
            (page,) = pool.allocate(1)
            pool.give_name(page, letter.encode(), index=index, owner=owner)
        else:
            pool.hold(page, owner)
        table.append(page)
    pool.release(table)
    return table


def find_left(pool: PagePool, names: str) -> str:
    """The letters whose pages are still there."""
    return "".join(letter for letter in names if pool.find(letter.encode()) is not None)


def test_a_beginning_outlives_every_sequence_that_goes_on_from_it() -> None:
    clock = Clock()
    pool = PagePool(6, clock=clock)
    fill(pool, "abc")
    clock.now = 1.0
    fill(pool, "ade")

    left = []
    for _ in range(5):
        pool.allocate(pool.num_free + 1)
        left.append(find_left(pool, "abcde"))

    assert left == ["abde", "ade", "ad", "a", ""]


def test_what_many_share_outlives_what_was_used_a_little_later() -> None:
    clock = Clock()
    pool = PagePool(2, clock=clock)
    for owner in range(10):
        fill(pool, "a", owner)
    clock.now = 1.0
    fill(pool, "b")

    pool.allocate(1)

    assert find_left(pool, "ab") == "a"


def test_a_page_that_is_not_wanted_for_long_goes_before_older_ones() -> None:
    clock = Clock()
    pool = PagePool(2, clock=clock)
    fill(pool, "a")
    clock.now = 1.0
    fill(pool, "b", owner=2)

    pool.expect_idle([b"b", b"x"], 2, idle_seconds=5.0)
    pool.allocate(1)

    assert find_left(pool, "ab") == "a"


def test_a_hint_does_not_touch_what_others_use_or_share() -> None:
    pool = PagePool(3, clock=Clock())
    fill(pool, "a", owner=1)
    fill(pool, "a", owner=2)
    fill(pool, "b", owner=3)
    (held,) = fill(pool, "c", owner=2)
    pool.hold(held, 2)

    pool.expect_idle([b"a", b"b", b"c"], 2, idle_seconds=None)
    pool.allocate(1)

    assert find_left(pool, "abc") == "ac"


def test_who_loses_its_content_is_told_while_it_is_still_there() -> None:
    pool = PagePool(2, clock=Clock())
    told = []
    pool.on_evict = lambda page, content: told.append((page, content.name, content.index))
    table = fill(pool, "ab")

    pool.allocate(1)

    assert told == [(table[1], b"b", 1)]


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
        elif action == "name" and table and not pool.get_content(table[-1]):
            table[-1] = pool.give_name(table[-1], bytes([number]))
        elif action == "release" and table is not None:
            tables.remove(table)
            pool.release(table)
        pool.check_integrity(tables)
