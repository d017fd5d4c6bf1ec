"""The engine on an NVIDIA GPU says what transformers says there, with graphs and without."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bench.stepping import Loop
from llmos.kernel.executor.attention import Chunk, Step, using
from llmos.kernel.executor.engine import Engine
from llmos.kernel.executor.gpu.support import runs_ops
from llmos.kernel.executor.model import Model, load_model
from llmos.kernel.executor.pools import make_pool
from llmos.kernel.executor.protocol import Done, Generate, Load
from llmos.kernel.executor.warmup import measure_step_bytes
from llmos.syscalls.types import Message, Sampling
from tests.kernel.executor.conftest import make_checkpoint  # noqa: F401

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
ARCHITECTURES = ["llama", "qwen3", "gemma2", "gemma3", "mistral"]
PROMPTS = ["hi", "Tell me a story about a fox. " * 4, "What is 2 + 2?"]
TOKENS = [list(range(3, 40)), list(range(50, 61)), [7, 8, 9]]
NUM_NEW = 40
Make = Callable[[str], Path]


def reference(folder: Path, prompt: str) -> tuple[int, ...]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().cuda()
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], return_tensors="pt", add_generation_prompt=True
    ).to("cuda")
    output = model.generate(**inputs, max_new_tokens=NUM_NEW, do_sample=False)
    return tuple(output[0, inputs["input_ids"].shape[1] :].tolist())


def answer(engine: Engine) -> list[tuple[int, ...]]:
    for number, prompt in enumerate(PROMPTS):
        sampling = Sampling(max_tokens=NUM_NEW, temperature=0.0)
        engine.submit(Generate(number, (Message("user", prompt),), sampling=sampling))
    answers: dict[int, tuple[int, ...]] = {}
    while engine.has_work:
        answers |= {one.id: one.tokens for one in engine.step() if isinstance(one, Done)}
        engine.check_integrity()
    return [answers[number] for number in range(len(PROMPTS))]


def load(folder: Path, dtype: str = "float32") -> Model:
    return load_model(Load(str(folder), device="cuda", dtype=dtype))


@pytest.mark.parametrize("max_step_tokens", [None, 23])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_in_float32_is_transformers_own(
    make_checkpoint: Make,  # noqa: F811
    architecture: str,
    max_step_tokens: int | None,
) -> None:
    folder = make_checkpoint(architecture)
    spec = Load(str(folder), device="cuda", dtype="float32")
    engine = Engine(spec, max_step_tokens=max_step_tokens)

    assert answer(engine) == [reference(folder, prompt) for prompt in PROMPTS]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_size_is_captured_and_says_the_same_as_without_graphs(
    make_checkpoint: Make,  # noqa: F811
    architecture: str,
) -> None:
    model = load(make_checkpoint(architecture))
    if not runs_ops(model.device):
        pytest.skip("the ops do not run on this GPU")
    answers = []

    for wants_graphs in (True, False):
        loop = Loop(
            model, num_pages=64, max_running=5, max_step_tokens=64, wants_graphs=wants_graphs
        )
        answers.append([one.tokens for one in loop.generate(TOKENS, NUM_NEW)])
        assert loop.num_graphs == (4 if wants_graphs else 0)
        loop.close()

    assert answers[0] == answers[1]


@torch.inference_mode()
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bfloat16_is_as_near_to_float32_as_transformers_is(
    make_checkpoint: Make,  # noqa: F811
    architecture: str,
) -> None:
    folder = make_checkpoint(architecture)
    tokens = torch.tensor([TOKENS[0]], device="cuda")
    exact, half = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval().cuda()(tokens).logits[0]
        for dtype in (torch.float32, torch.bfloat16)
    )
    loaded = load(folder, "bfloat16")

    found = compute_prefill(loaded, tokens[0])

    assert loaded.dtype == torch.bfloat16
    assert measure_distance(found, exact) <= 1.5 * measure_distance(half, exact)


def compute_prefill(model: Model, tokens: torch.Tensor) -> torch.Tensor:
    """The logits of all tokens of one prompt, by the engine's own attention."""
    count = len(tokens)
    pages = np.arange(-(-count // 16), dtype=np.int32)
    pool = make_pool(model, num_pages=len(pages), page_size=16)
    places = torch.arange(count, device=tokens.device)
    with using(Step(pool, np.arange(count), 0, [Chunk(0, count, 0, pages)])):
        return model.compute_logits(tokens, places, places)


def measure_distance(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.float() - exact).norm() / exact.norm())


def test_pages_take_what_the_largest_step_leaves(make_checkpoint: Make) -> None:  # noqa: F811
    model = load(make_checkpoint("qwen3"))

    small, large = (
        measure_step_bytes(model, num_tokens=count, num_sequences=4, page_size=16)
        for count in (16, 512)
    )

    assert 0 < small < large
