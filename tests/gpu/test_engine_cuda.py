"""The engine on an NVIDIA GPU says what transformers says there."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmos.kernel.executor.engine import Engine
from llmos.kernel.executor.protocol import Done, Generate, Load
from llmos.syscalls.types import Message, Sampling
from tests.kernel.executor.conftest import make_checkpoint  # noqa: F401

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
PROMPTS = ["hi", "Tell me a story about a fox. " * 4, "What is 2 + 2?"]
NUM_NEW = 40


def reference(folder: Path, prompt: str) -> tuple[int, ...]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().cuda()
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], return_tensors="pt", add_generation_prompt=True
    ).to("cuda")
    output = model.generate(**inputs, max_new_tokens=NUM_NEW, do_sample=False)
    return tuple(output[0, inputs["input_ids"].shape[1] :].tolist())


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2", "gemma3", "mistral"])
def test_greedy_in_float32_is_transformers_own(
    make_checkpoint: Callable[[str], Path],  # noqa: F811
    architecture: str,
) -> None:
    folder = make_checkpoint(architecture)
    engine = Engine(Load(str(folder), device="cuda", dtype="float32"))

    for number, prompt in enumerate(PROMPTS):
        sampling = Sampling(max_tokens=NUM_NEW, temperature=0.0)
        engine.submit(Generate(number, (Message("user", prompt),), sampling=sampling))
    answers: dict[int, tuple[int, ...]] = {}
    while engine.has_work:
        answers |= {one.id: one.tokens for one in engine.step() if isinstance(one, Done)}

    assert [answers[n] for n in range(len(PROMPTS))] == [reference(folder, p) for p in PROMPTS]
