"""Padded steps: their sizes, what they take, and that padding disturbs nobody."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from llmos.kernel.executor.attention import Chunk, Step, using
from llmos.kernel.executor.batch import Work
from llmos.kernel.executor.model import Model, load_model
from llmos.kernel.executor.padded import Graph, PaddedDecoder, list_sizes
from llmos.kernel.executor.pools import AnyPool, make_pool, make_triton_pool
from llmos.kernel.executor.protocol import Load
from llmos.kernel.executor.sequence import ResolvedSampling, Sequence

from ..conftest import make_checkpoint  # noqa: F401
from .conftest import DEVICE

GREEDY = ResolvedSampling(max_tokens=9)


def make_sequence(tokens: list[int], pages: list[int], *, num_computed: int) -> Sequence:
    sequence = Sequence(1, tokens, GREEDY, b"")
    sequence.pages.extend(pages)
    sequence.num_computed = num_computed
    return sequence


@pytest.fixture
def model(make_checkpoint: Callable[[str], Path]) -> Model:  # noqa: F811
    """The random Qwen3, on Triton's ops."""
    pytest.importorskip("triton")
    folder = make_checkpoint("qwen3")
    loaded = load_model(Load(str(folder), device=DEVICE, dtype="float32"))
    return dataclasses.replace(loaded, is_triton=True)


@pytest.mark.parametrize(
    ("max_running", "sizes"),
    [
        (1, [1]),
        (3, [1, 2, 4]),
        (5, [1, 2, 4, 8]),
        (64, [1, 2, 4, 8, 16, 24, 32, 48, 64]),
        (65, [1, 2, 4, 8, 16, 24, 32, 48, 64, 80]),
    ],
)
def test_sizes_rise_to_the_first_that_holds_all(max_running: int, sizes: list[int]) -> None:
    assert list_sizes(max_running) == sizes


@pytest.mark.parametrize("max_running", [1, 7, 64, 100, 128, 129, 256, 1000])
def test_no_step_does_twice_the_rows_it_needs(max_running: int) -> None:
    sizes = list_sizes(max_running)

    assert sizes[-1] >= max_running
    for num_rows in range(1, max_running + 1):
        assert next(size for size in sizes if size >= num_rows) < 2 * num_rows


@torch.inference_mode()
def test_padding_changes_no_logits_and_no_page(model: Model) -> None:
    pool = make_triton_pool(model, num_pages=8, page_size=16)
    plain = make_pool(dataclasses.replace(model, is_triton=False), num_pages=8, page_size=16)
    for own, other in zip((*pool.keys, *pool.values), (*plain.keys, *plain.values), strict=True):
        own.copy_(torch.randn(own.shape))
        other.copy_(own)
    decoder = PaddedDecoder(model, pool, max_running=4)
    works = [
        Work(make_sequence(list(range(3 + size)), [page, 7 - page], num_computed=2 + size), 1)
        for page, size in enumerate((0, 1, 15))
    ]

    logits = run(decoder, works)

    slots = np.concatenate([work.find_slots(16) for work in works])
    assert list_changes(pool.keys[0], plain.keys[0]) == sorted(slots.tolist())
    assert torch.allclose(logits, compute(model, plain, works, slots), rtol=1e-4, atol=1e-4)


def run(decoder: PaddedDecoder, works: list[Work]) -> torch.Tensor:
    """The logits by the decoder."""
    decoder.load(works)
    return decoder.compute_logits()


def list_changes(found: torch.Tensor, before: torch.Tensor) -> list[int]:
    """The slots whose numbers differ."""
    return list((found != before).flatten(1).any(1).nonzero().flatten().tolist())


def compute(
    model: Model, pool: AnyPool, works: list[Work], slots: NDArray[np.int64]
) -> torch.Tensor:
    """The logits of the same step without padding."""
    chunks = [
        Chunk(row, 1, work.sequence.num_computed, work.sequence.pages.numbers)
        for row, work in enumerate(works)
    ]
    tokens, places = (
        torch.tensor(numbers, device=DEVICE)
        for numbers in ([work.tokens[0] for work in works], [one.num_before for one in chunks])
    )
    with using(Step(pool, slots, len(works), chunks)):
        return model.compute_logits(tokens, places, torch.arange(len(works), device=DEVICE))


class Again:
    """A graph that runs the pass again."""

    def __init__(self, run: Callable[[], None]) -> None:
        self._run = run
        self.num_replays = 0

    def replay(self) -> None:
        self.num_replays += 1
        self._run()

    def pool(self) -> int:
        return 1


@torch.inference_mode()
def test_a_recorded_size_is_replayed_with_its_own_numbers(model: Model) -> None:
    graphs: list[Again] = []

    def record(run: Callable[[], None], largest: Graph | None) -> Again:
        assert largest is (graphs[0] if graphs else None)
        graphs.append(Again(run))
        return graphs[-1]

    pool = make_triton_pool(model, num_pages=4, page_size=16)
    decoder = PaddedDecoder(model, pool, max_running=2)
    works = [Work(make_sequence([7], [page], num_computed=0), 1) for page in (0, 1)]
    before = run(decoder, works).clone()
    num_graphs = decoder.capture(record)

    after = run(decoder, works)

    assert num_graphs == 2
    assert [graph.num_replays for graph in graphs] == [1, 0]
    assert torch.equal(after, before)


@torch.inference_mode()
def test_what_cannot_be_recorded_runs_all_the_same_and_is_told_once(
    model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    def record(run: Callable[[], None], largest: Graph | None) -> Again:
        if largest:
            raise RuntimeError("operation not permitted when stream is capturing\nmore of it")
        return Again(run)

    pool = make_triton_pool(model, num_pages=4, page_size=16)
    decoder = PaddedDecoder(model, pool, max_running=4)

    assert decoder.capture(record) == 0
    (told,) = caplog.messages
    assert told.endswith("cannot be captured: operation not permitted when stream is capturing")
    works = [Work(make_sequence([7], [0], num_computed=0), 1)]
    assert run(decoder, works).isfinite().all()


def test_only_decodes_of_generations_are_taken(model: Model) -> None:
    pool = make_triton_pool(model, num_pages=8, page_size=16)
    decoder = PaddedDecoder(model, pool, max_running=2)
    decode = Work(make_sequence([1, 2, 3], [0], num_computed=2), 1)
    chunk = Work(make_sequence([1, 2, 3], [1], num_computed=1), 2)
    unfinished = Work(make_sequence([1, 2, 3], [1], num_computed=1), 1)
    scored = Work(make_sequence([1, 2, 3], [2], num_computed=2), 1)
    scored.sequence.kind = "score"

    assert decoder.takes([decode, decode])
    assert not decoder.takes([decode, decode, decode])
    for other in (chunk, unfinished, scored):
        assert not decoder.takes([decode, other])
