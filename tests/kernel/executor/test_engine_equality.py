"""The engine's correctness test: greedy output is transformers' own, token for token."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmos.kernel.executor.engine import Engine
from llmos.kernel.executor.protocol import Done, Generate, Load
from llmos.syscalls.types import Message, Sampling

ARCHITECTURES = ["llama", "qwen3", "gemma2", "gemma3", "mistral"]
NUM_NEW = 40
PROMPTS = [
    "hi",
    "Tell me a story about a fox. " * 4,
    "What is 2 + 2?",
    "Once upon a time there was " * 7,
    "Tell me a story about a fox. " * 5,
]
SHORT = ["hi", "What is 2 + 2?", "Why?", "Sing!", "Who are you?", "Name a colour."]


def ask(number: int, prompt: str, num_new: int = NUM_NEW) -> Generate:
    sampling = Sampling(max_tokens=num_new, temperature=0.0)
    return Generate(number, (Message("user", prompt),), sampling=sampling)


def answer(engine: Engine, requests: Iterable[Generate]) -> dict[int, str]:
    for request in requests:
        engine.submit(request)
    texts: dict[int, str] = {}
    while engine.has_work:
        for output in engine.step():
            if isinstance(output, Done):
                texts[output.id] = output.text
        engine.check_integrity()
    return texts


class Reference:
    """Transformers' own answers."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def answer(self, prompt: str, num_new: int = NUM_NEW) -> str:
        inputs = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], return_tensors="pt", add_generation_prompt=True
        )
        output = self._model.generate(**inputs, max_new_tokens=num_new, do_sample=False)
        ids = output[0, inputs["input_ids"].shape[1] :]
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def case(
    request: pytest.FixtureRequest, make_checkpoint: Callable[[str], Path]
) -> tuple[Path, list[str]]:
    folder = make_checkpoint(request.param)
    reference = Reference(folder)
    return folder, [reference.answer(prompt) for prompt in PROMPTS + SHORT]


def test_one_generation_at_a_time(case: tuple[Path, list[str]]) -> None:
    folder, expected = case
    engine = Engine(Load(str(folder)), num_pages=256)

    texts = [answer(engine, [ask(n, prompt)])[n] for n, prompt in enumerate(PROMPTS)]

    assert texts == expected[: len(PROMPTS)]
    assert len(set(texts)) > 2


def test_all_in_one_batch_and_again_with_prefixes_reused(case: tuple[Path, list[str]]) -> None:
    folder, expected = case
    engine = Engine(Load(str(folder)), num_pages=256)

    first = answer(engine, [ask(n, prompt) for n, prompt in enumerate(PROMPTS)])
    second = answer(engine, [ask(n, prompt) for n, prompt in enumerate(PROMPTS)])

    assert list(dict(sorted(first.items())).values()) == expected[: len(PROMPTS)]
    assert first == second
    assert engine.collect_stats().num_cached_tokens > 100


def test_prefill_in_small_chunks(case: tuple[Path, list[str]]) -> None:
    folder, expected = case
    engine = Engine(Load(str(folder)), num_pages=256, max_step_tokens=23)

    texts = answer(engine, [ask(n, prompt) for n, prompt in enumerate(PROMPTS)])

    assert [texts[n] for n in range(len(PROMPTS))] == expected[: len(PROMPTS)]


def test_forced_preemption(case: tuple[Path, list[str]]) -> None:
    folder, expected = case
    engine = Engine(Load(str(folder)), num_pages=12, max_step_tokens=64)

    texts = answer(engine, [ask(n, prompt) for n, prompt in enumerate(SHORT)])

    assert [texts[n] for n in range(len(SHORT))] == expected[len(PROMPTS) :]
    assert engine.collect_stats().num_preemptions > 0
