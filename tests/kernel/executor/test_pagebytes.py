"""A page's bytes, to the host and back, in both pools."""

import numpy as np
import pytest
import torch

from llmos.kernel.executor.attention import LayerShape
from llmos.kernel.executor.native.library import has_native_kernels
from llmos.kernel.executor.native.pool import NativePool
from llmos.kernel.executor.pagebytes import PageBytes
from llmos.kernel.executor.plain import PlainPool

LAYERS = [LayerShape(2, 24, 32), LayerShape(1, 32, 16)]
NUM_PAGES = 5
TOKEN_NUMBERS = 2 * (24 + 32) + 32 + 16


def make_pool(kind: str) -> NativePool | PlainPool:
    if kind == "native":
        if not has_native_kernels():
            pytest.skip("no compiled kernels here")
        return NativePool(LAYERS, num_pages=NUM_PAGES)
    device, dtype = torch.device("cpu"), torch.float32
    return PlainPool(LAYERS, num_pages=NUM_PAGES, page_size=16, dtype=dtype, device=device)


@pytest.mark.parametrize(("kind", "itemsize"), [("native", 2), ("plain", 4)])
def test_a_page_moves_as_one_buffer_and_leaves_its_neighbours_alone(
    kind: str, itemsize: int
) -> None:
    pool = make_pool(kind)
    tensors = [*pool.keys, *pool.values]
    for tensor in tensors:
        tensor.copy_(torch.randn(tensor.shape))
    store = PageBytes(tensors, num_pages=NUM_PAGES)
    before = [store.read_page(page) for page in range(NUM_PAGES)]

    store.write_page(3, before[1])

    after = [store.read_page(page) for page in range(NUM_PAGES)]
    assert store.page_bytes == 16 * TOKEN_NUMBERS * itemsize
    assert not np.array_equal(before[1], before[3])
    assert np.array_equal(after[3], before[1])
    assert all(np.array_equal(after[page], before[page]) for page in (0, 1, 2, 4))


def test_a_plain_page_holds_the_slots_of_its_tokens() -> None:
    pool = make_pool("plain")
    store = PageBytes([*pool.keys, *pool.values], num_pages=NUM_PAGES)
    pool.keys[1][2 * 16 + 5] = 7.0

    buffer = store.read_page(2).view(np.float32)

    assert (buffer == 7.0).sum() == 32
