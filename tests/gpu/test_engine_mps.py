"""The engine on Apple's GPU, by what torch has for every device."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from llmos.kernel.executor.engine import Engine
from llmos.kernel.executor.pagebytes import PageBytes
from llmos.kernel.executor.protocol import Done, Generate, Load
from llmos.kernel.executor.sampler import sample
from llmos.kernel.executor.sequence import ResolvedSampling, Sequence
from llmos.syscalls.types import Message, Sampling
from tests.kernel.executor.conftest import make_checkpoint  # noqa: F401

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.backends.mps.is_available(), reason="needs Apple's GPU"),
]


def answer(engine: Engine) -> tuple[int, ...]:
    sampling = Sampling(max_tokens=20, temperature=0.0)
    engine.submit(Generate(1, (Message("user", "What is 2 + 2?"),), sampling=sampling))
    answers: list[tuple[int, ...]] = []
    while engine.has_work:
        answers += [one.tokens for one in engine.step() if isinstance(one, Done)]
    return answers[0]


@pytest.mark.parametrize("architecture", ["qwen3", "gemma2"])
def test_greedy_is_what_the_processor_says(
    make_checkpoint: Callable[[str], Path],  # noqa: F811
    architecture: str,
) -> None:
    model = str(make_checkpoint(architecture))

    ours, processor = (
        answer(Engine(Load(model, device=name, dtype="float32"), num_pages=64))
        for name in ("mps", "cpu")
    )

    assert ours == processor


def test_a_draw_is_what_the_processor_draws() -> None:
    sampling = ResolvedSampling(max_tokens=1, temperature=0.8, top_p=0.9, seed=3)
    logits = torch.randn(5, 300)
    sequences = [Sequence(number, [number], sampling, b"") for number in range(5)]

    assert sample(logits.to("mps"), sequences) == sample(logits, sequences)


def test_a_page_comes_back_as_it_went() -> None:
    tensors = [torch.randn(4 * 16, 2, 24, device="mps") for _ in range(2)]
    store = PageBytes(tensors, num_pages=4)
    before = [store.read_page(page) for page in range(4)]

    store.write_page(2, before[1])

    assert np.array_equal(store.read_page(2), before[1])
    assert np.array_equal(store.read_page(3), before[3])
