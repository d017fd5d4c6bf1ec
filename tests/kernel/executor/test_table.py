"""A page table is a list of page numbers that attention can read as an array."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.kernel.executor.table import PageTable

PAGES = st.lists(st.integers(0, 2**31 - 1), max_size=40)


@given(parts=st.lists(PAGES, max_size=6))
def test_it_holds_what_was_added_in_order(parts: list[list[int]]) -> None:
    table = PageTable()

    for part in parts:
        table.extend(part)

    everything = [page for part in parts for page in part]
    assert list(table) == table.numbers.tolist() == everything
    assert len(table) == len(everything)
    assert [table[index] for index in range(len(table))] == everything


def test_attention_gets_the_numbers_in_place() -> None:
    table = PageTable()
    table.extend(range(100))

    assert table.numbers.dtype == np.int32
    assert table.numbers.flags.c_contiguous
    assert np.shares_memory(table.numbers, table.numbers)


def test_a_page_can_be_exchanged() -> None:
    table = PageTable()
    table.extend([5, 6, 7])

    table[1] = 9

    assert list(table) == [5, 9, 7]


@pytest.mark.parametrize("index", [3, 15])
def test_what_is_beyond_its_end_is_not_there(index: int) -> None:
    table = PageTable()
    table.extend([5, 6, 7])

    with pytest.raises(IndexError):
        table[index]
    with pytest.raises(IndexError):
        table[index] = 1


def test_an_array_that_was_read_before_it_grew_keeps_its_numbers() -> None:
    table = PageTable()
    table.extend(range(16))
    before = table.numbers

    table.extend([99])

    assert before.tolist() == list(range(16))
    assert len(table) == 17


def test_a_cleared_table_can_be_filled_again() -> None:
    table = PageTable()
    table.extend(range(30))

    table.clear()
    table.extend([4])

    assert list(table) == [4]
