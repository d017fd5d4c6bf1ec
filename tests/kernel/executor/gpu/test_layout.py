"""A step becomes tiles, slots and tables."""

from typing import cast

import numpy as np
import torch

from llmos.kernel.executor.attention import Chunk, Pool, Step
from llmos.kernel.executor.gpu.layout import Layout, lay_out

NO_POOL = cast("Pool", None)
PAGES = [np.array(numbers, np.int32) for numbers in ([3], [5, 1, 0], [2, 4])]


def make_layout() -> Layout:
    """One decode, then chunks of 37 and 5 tokens."""
    chunks = [Chunk(0, 1, 9, PAGES[0]), Chunk(1, 37, 4, PAGES[1]), Chunk(38, 5, 16, PAGES[2])]
    return lay_out(Step(NO_POOL, np.arange(43), 1, chunks), torch.device("cpu"))


def test_a_decode_is_a_tile_of_its_own() -> None:
    assert make_layout().decodes.tolist() == [[0, 9, 1, 0]]


def test_chunks_are_cut_into_tiles_that_know_their_places() -> None:
    layout = make_layout()

    tiles = layout.cut(16)

    assert tiles.tolist() == [[1, 4, 16, 1], [17, 20, 16, 1], [33, 36, 5, 1], [38, 16, 5, 2]]
    assert layout.cut(16) is tiles


def test_tables_lie_side_by_side_in_a_width_that_ops_know() -> None:
    tables = make_layout().tables

    assert tables.shape == (3, 16)
    assert tables[1, :4].tolist() == [5, 1, 0, 0]


def test_the_longest_context_bounds_the_others() -> None:
    assert make_layout().max_tokens == 41
