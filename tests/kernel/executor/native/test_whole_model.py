"""Models of several architectures on the kernels: as right as transformers' own bfloat16, and every
generation as if it were alone."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from llmos.kernel.executor.attention import Chunk, Step, using
from llmos.kernel.executor.engine import Engine
from llmos.kernel.executor.model import Model, load_model
from llmos.kernel.executor.native.modules import PackedLinear
from llmos.kernel.executor.native.pool import NativePool
from llmos.kernel.executor.protocol import Done, Failed, Generate, Load, Output
from llmos.syscalls.types import Message, Sampling

pytestmark = pytest.mark.usefixtures("kernels")
ARCHITECTURES = ["llama", "qwen3", "gemma2", "gemma3", "mistral", "phi", "gpt2"]
TOKENS = torch.from_numpy(np.random.default_rng(3).integers(3, 400, 120))
PROMPTS = [
    "hi",
    "Tell me a story about a fox. " * 4,
    "What is 2 + 2?",
    "Once upon a time there was " * 7,
    "Tell me a story about a fox. " * 5,
    "Sing!",
]
SHORT = ["hi", "What is 2 + 2?", "Why?", "Sing!", "Who are you?", "Name a colour."]


def compute_logits(model: Model, cuts: Iterable[int]) -> torch.Tensor:
    """The logits of all of TOKENS, prefilled up to each of these cuts in turn."""
    pool = NativePool(model.layers, num_pages=9)
    pages, start, found = np.array([4, 0, 7, 2, 8, 1, 3, 6], np.int32), 0, []
    for stop in cuts:
        places = np.arange(start, stop)
        slots = pages[places // 16].astype(np.int64) * 16 + places % 16
        chunk = Chunk(0, stop - start, start, pages)
        positions, rows = torch.from_numpy(places), torch.arange(stop - start)
        with torch.inference_mode(), using(Step(pool, slots, int(stop - start == 1), [chunk])):
            found.append(model.compute_logits(TOKENS[start:stop], positions, rows))
        start = stop
    return torch.cat(found)


def compute_by_transformers(folder: Path, dtype: torch.dtype) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    with torch.inference_mode():
        return model(TOKENS.unsqueeze(0)).logits[0].float()  # type: ignore[no-any-return]


def measure_mean_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """The mean over positions of the distance of the logits."""
    return float((found.float() - exact).norm(dim=-1).mean())


@pytest.fixture(scope="module", params=ARCHITECTURES)
def folder(request: pytest.FixtureRequest, make_native_checkpoint: Callable[[str], Path]) -> Path:
    return make_native_checkpoint(request.param)


def load(folder: Path, dtype: str = "bfloat16") -> Load:
    return Load(str(folder), dtype=dtype)


def test_logits_are_as_right_as_those_of_transformers(folder: Path) -> None:
    model = load_model(load(folder))
    exact = compute_by_transformers(folder, torch.float32)
    theirs = measure_mean_error(compute_by_transformers(folder, torch.bfloat16), exact)

    ours = measure_mean_error(compute_logits(model, [33, 34, 100, 120]), exact)

    assert model.is_native
    assert any(isinstance(part, PackedLinear) for part in model.network.modules())
    assert ours <= 1.2 * theirs


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_logits_are_the_same_in_any_chunks(folder: Path, dtype: str) -> None:
    model = load_model(load(folder, dtype))

    whole = compute_logits(model, [120])

    assert torch.equal(compute_logits(model, [1, 17, 18, 50, 119, 120]), whole)


def ask(number: int, prompt: str) -> Generate:
    sampling = Sampling(max_tokens=40, temperature=0.9, seed=11)
    return Generate(number, (Message("user", prompt),), sampling=sampling)


def answer(engine: Engine, requests: Iterable[Generate]) -> dict[int, tuple[int, ...]]:
    for request in requests:
        engine.submit(request)
    return {one.id: one.tokens for one in run(engine) if isinstance(one, Done)}


def run(engine: Engine) -> list[Output]:
    outputs: list[Output] = []
    while engine.has_work:
        outputs += engine.step()
        engine.check_integrity()
    return outputs


def answer_alone(folder: Path, requests: Iterable[Generate]) -> dict[int, tuple[int, ...]]:
    engine = Engine(load(folder), num_pages=32)
    return {one.id: answer(engine, [one])[one.id] for one in requests}


def test_what_is_sampled_is_the_same_alone_and_in_a_batch_in_chunks(folder: Path) -> None:
    requests = [ask(number, prompt) for number, prompt in enumerate(PROMPTS)]
    engine = Engine(load(folder), num_pages=128, max_step_tokens=29)

    found = answer(engine, requests)

    assert found == answer_alone(folder, requests)
    assert len(set(found.values())) == len(PROMPTS)


def test_what_is_sampled_is_the_same_alone_and_preempted(folder: Path) -> None:
    requests = [ask(number, prompt) for number, prompt in enumerate(SHORT)]
    engine = Engine(load(folder), num_pages=12, max_step_tokens=64)

    found = answer(engine, requests)

    assert found == answer_alone(folder, requests)
    assert engine.collect_stats().num_preemptions > 0


def test_a_pool_that_was_cut_for_want_of_memory_keeps_its_first_pages(folder: Path) -> None:
    engine = Engine(load(folder), num_pages=128)
    before = answer(engine, [ask(1, PROMPTS[0])])[1]
    is_short = [True]

    def allocate(module: object, args: object) -> None:
        if is_short[0]:
            torch.empty(1 << 60)

    engine._model.network.register_forward_pre_hook(allocate)
    engine.submit(ask(2, PROMPTS[0]))
    engine.step()
    is_short[0] = False
    (done,) = [one for one in run(engine) if isinstance(one, Done)]

    assert engine.collect_stats().num_pages == 64
    assert done.tokens == before
    assert done.usage.cached_tokens > 0


def test_a_generation_that_fails_leaves_nothing_to_those_after_it(
    make_native_checkpoint: Callable[[str], Path],
) -> None:
    engine = Engine(load(make_native_checkpoint("llama")), num_pages=8)
    wanted = answer(engine, [ask(1, "Who?")])[1]
    embedding = engine._model.network.get_input_embeddings().weight
    bad = engine._model.tokenizer.encode("~")[0]

    embedding.data[bad] = float("nan")
    engine.submit(ask(2, "~ and more of it " * 4))
    (failed,) = run(engine)
    found = answer(engine, [ask(3, "Who?")])[3]

    assert isinstance(failed, Failed)
    assert found == wanted
