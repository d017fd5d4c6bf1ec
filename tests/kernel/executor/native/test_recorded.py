"""Decode steps that are made again from a recording are what the network's own code computes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmos.kernel.executor.attention import Chunk, Step, using
from llmos.kernel.executor.batch import Work, pack
from llmos.kernel.executor.model import Model, load_model
from llmos.kernel.executor.native.pool import PAGE_SIZE, NativePool
from llmos.kernel.executor.protocol import Load
from llmos.kernel.executor.recorded import RecordedDecoder
from llmos.kernel.executor.sequence import Kind, ResolvedSampling, Sequence

pytestmark = pytest.mark.usefixtures("kernels")
RECORDED = ["llama", "qwen3", "gemma2", "gemma3", "mistral"]
NUM_PAGES = 12
MAX_RUNNING = 4


@pytest.fixture(scope="module", params=RECORDED)
def folder(request: pytest.FixtureRequest, make_native_checkpoint: Callable[[str], Path]) -> Path:
    """A random checkpoint of each architecture whose decode steps can be recorded."""
    return make_native_checkpoint(request.param)


@pytest.fixture
def model(folder: Path, request: pytest.FixtureRequest) -> Model:
    """The checkpoint on the kernels, with no hook of another test."""
    dtype = getattr(request, "param", "bfloat16")
    return load_model(Load(str(folder), device="cpu", dtype=dtype))


class Calls:
    """How often the network's own code has run."""

    def __init__(self, model: Model) -> None:
        self.count = 0
        model.network.register_forward_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.count += 1


def make_pool(model: Model, seed: int = 0) -> NativePool:
    """Pages full of random keys and values."""
    pool = NativePool(model.layers, num_pages=NUM_PAGES)
    generator = torch.Generator().manual_seed(seed)
    for tensor in (*pool.keys, *pool.values):
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return pool


def make_works(rng: np.random.Generator, num_sequences: int) -> list[Work]:
    """Sequences with a token left each, in pages that nobody else has."""
    numbers, works = rng.permutation(NUM_PAGES), []
    for index in range(num_sequences):
        length = int(rng.integers(1, 3 * PAGE_SIZE))
        tokens = rng.integers(3, 400, length).tolist()
        sequence = Sequence(index, tokens, ResolvedSampling(max_tokens=9), b"")
        sequence.pages.extend(numbers[index * 3 : index * 3 + 3].tolist())
        sequence.num_computed = length - 1
        works.append(Work(sequence, 1))
    return works


def run(decoder: RecordedDecoder, works: list[Work]) -> torch.Tensor:
    """The logits by the decoder."""
    decoder.load(works)
    return decoder.compute_logits()


def compute(model: Model, pool: NativePool, works: list[Work]) -> torch.Tensor:
    """The logits by the network's own code."""
    tokens, places, slots = pack(works, PAGE_SIZE)
    chunks = [
        Chunk(row, 1, work.sequence.num_computed, work.sequence.pages.numbers)
        for row, work in enumerate(works)
    ]
    with using(Step(pool, slots, len(works), chunks)):
        return model.compute_logits(
            torch.from_numpy(tokens), torch.from_numpy(places), torch.arange(len(works))
        )


@pytest.mark.parametrize("model", ["bfloat16", "int8"], indirect=True)
@torch.inference_mode()
def test_every_step_is_what_the_network_computes(model: Model) -> None:
    pool, other = make_pool(model), make_pool(model)
    decoder = RecordedDecoder(model, pool, max_running=MAX_RUNNING)
    rng = np.random.default_rng(5)
    for size in (3, 1, 3, 4, 3, 1, 2, 4, 3):
        works = make_works(rng, size)

        found = run(decoder, works).clone()

        assert torch.equal(found, compute(model, other, works))
        for own, wanted in zip(
            (*pool.keys, *pool.values), (*other.keys, *other.values), strict=True
        ):
            assert torch.equal(own, wanted)


@torch.inference_mode()
def test_the_networks_code_runs_once_for_each_number_of_sequences(model: Model) -> None:
    decoder = RecordedDecoder(model, make_pool(model), max_running=MAX_RUNNING)
    calls, rng = Calls(model), np.random.default_rng(6)

    for size in (2, 1, 2, 2, 1, 3):
        run(decoder, make_works(rng, size))

    assert calls.count == 3


@torch.inference_mode()
def test_other_memory_for_the_pages_needs_other_recordings(model: Model) -> None:
    pool, other = make_pool(model), make_pool(model)
    decoder = RecordedDecoder(model, pool, max_running=MAX_RUNNING)
    works = make_works(np.random.default_rng(7), 2)
    run(decoder, works)
    old = [*pool.keys, *pool.values]
    pool.keys = [keys.clone() for keys in pool.keys]
    pool.values = [values.clone() for values in pool.values]
    pool.resize(NUM_PAGES)
    for tensor in old:
        tensor.fill_(float("nan"))

    stale = run(decoder, works).clone()
    decoder.forget_recordings()
    found = run(decoder, works)

    assert not torch.equal(stale, compute(model, other, works))
    assert torch.equal(found, compute(model, other, works))


def shift(_module: Any, _arguments: Any, hidden: torch.Tensor) -> torch.Tensor:
    """What depends on a number that it has looked at."""
    return hidden + (1 if hidden.sum().item() > 0 else -1)


@torch.inference_mode()
def test_a_network_that_looks_at_its_numbers_is_never_recorded(model: Model) -> None:
    model.network.base_model.norm.register_forward_hook(shift)
    decoder = RecordedDecoder(model, make_pool(model), max_running=MAX_RUNNING)
    works = make_works(np.random.default_rng(8), 2)
    assert decoder.takes(works)

    found = run(decoder, works)

    assert torch.equal(found, compute(model, make_pool(model), works))
    assert not decoder.takes(works)


@pytest.mark.parametrize("name", ["phi", "gpt2"])
@torch.inference_mode()
def test_what_is_mostly_torchs_own_work_is_as_right(
    make_native_checkpoint: Callable[[str], Path], name: str
) -> None:
    folder = make_native_checkpoint(name)
    model = load_model(Load(str(folder), device="cpu", dtype="bfloat16"))
    pool, other = make_pool(model), make_pool(model)
    decoder = RecordedDecoder(model, pool, max_running=MAX_RUNNING)
    rng = np.random.default_rng(9)
    for size in (2, 2, 1):
        works = make_works(rng, size)
        assert torch.equal(run(decoder, works), compute(model, other, works))


@pytest.fixture
def works() -> list[Work]:
    """A decode, a chunk of a prompt, a prompt with tokens left, a text to be scored."""
    kinds: tuple[tuple[int, Kind], ...] = (
        (2, "generate"),
        (1, "generate"),
        (1, "generate"),
        (2, "score"),
    )
    made = []
    for num_computed, kind in kinds:
        sequence = Sequence(0, [1, 2, 3], ResolvedSampling(max_tokens=9), b"", kind=kind)
        sequence.num_computed = num_computed
        sequence.pages.extend([0])
        made.append(Work(sequence, 1))
    made[1] = Work(made[1].sequence, 2)
    return made


def test_only_decodes_of_generations_are_taken(model: Model, works: list[Work]) -> None:
    decoder = RecordedDecoder(model, make_pool(model), max_running=2)
    decode, chunk, unfinished, scored = works

    assert decoder.takes([decode])
    assert decoder.takes([decode, decode])
    assert not decoder.takes([decode, decode, decode])
    for other in (chunk, unfinished, scored):
        assert not decoder.takes([decode, other])
