"""Pages between an NVIDIA GPU, the host and the disk: their bytes, and answers from any tier."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from llmos.kernel.executor.engine import Engine
from llmos.kernel.executor.pagebytes import PageBytes
from llmos.kernel.executor.protocol import Load
from tests.kernel.executor.conftest import make_checkpoint  # noqa: F401
from tests.kernel.executor.test_tiers import PROMPTS, answer, settle

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


def test_a_page_comes_back_as_it_went_while_others_are_written() -> None:
    tensors = [torch.randn(8 * 16, 2, 24, device="cuda") for _ in range(4)]
    store = PageBytes(tensors, num_pages=8)
    before = [store.read_page(page) for page in range(8)]

    for page in range(8):
        store.write_page(page, before[7 - page])

    assert all(np.array_equal(store.read_page(page), before[7 - page]) for page in range(8))


@pytest.mark.parametrize("num_host_pages", [0, 8, 100])
def test_answers_are_the_same_with_pages_from_every_tier(
    make_checkpoint: Callable[[str], Path],  # noqa: F811
    tmp_path: Path,
    num_host_pages: int,
) -> None:
    model = str(make_checkpoint("qwen3"))
    spec = Load(model, device="cuda", dtype="float32", page_folder=str(tmp_path))
    expected = answer(Engine(Load(model, device="cuda", dtype="float32")), *PROMPTS)
    engine = Engine(spec, num_pages=20, num_host_pages=num_host_pages)

    rounds = []
    for _ in range(3):
        rounds.append(answer(engine, *PROMPTS))
        settle(engine)

    assert rounds == [expected] * 3
    assert engine.collect_stats().num_bytes_moved["to_device"] > 0
    engine.close()
