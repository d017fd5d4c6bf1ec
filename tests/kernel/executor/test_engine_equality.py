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
Tokens = tuple[int, ...]
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


def answer(engine: Engine, requests: Iterable[Generate]) -> dict[int, Tokens]:
    for request in requests:
        engine.submit(request)
    answers: dict[int, Tokens] = {}
    while engine.has_work:
        for output in engine.step():
            if isinstance(output, Done):
                answers[output.id] = output.tokens
        engine.check_integrity()
    return answers


class Reference:
    """Transformers' own answers."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def answer(self, prompt: str, num_new: int = NUM_NEW) -> Tokens:
        inputs = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], return_tensors="pt", add_generation_prompt=True
        )
        output = self._model.generate(**inputs, max_new_tokens=num_new, do_sample=False)
        return tuple(output[0, inputs["input_ids"].shape[1] :].tolist())


@pytest.fixture(scope="module", params=ARCHITECTURES)
def case(
    request: pytest.FixtureRequest, make_checkpoint: Callable[[str], Path]
) -> tuple[Path, list[Tokens]]:
    folder = make_checkpoint(request.param)
    reference = Reference(folder)
    return folder, [reference.answer(prompt) for prompt in PROMPTS + SHORT]


def test_one_generation_at_a_time(case: tuple[Path, list[Tokens]]) -> None:
    folder, expected = case
    engine = Engine(Load(str(folder)), num_pages=256)

    answers = [answer(engine, [ask(n, prompt)])[n] for n, prompt in enumerate(PROMPTS)]

    assert answers == expected[: len(PROMPTS)]
    assert len(set(answers)) > 2


def test_all_in_one_batch_and_again_with_prefixes_reused(case: tuple[Path, list[Tokens]]) -> None:
    folder, expected = case
    engine = Engine(Load(str(folder)), num_pages=256)

    first = answer(engine, [ask(n, prompt) for n, prompt in enumerate(PROMPTS)])
    second = answer(engine, [ask(n, prompt) for n, prompt in enumerate(PROMPTS)])

    assert list(dict(sorted(first.items())).values()) == expected[: len(PROMPTS)]
    assert first == second
    assert engine.collect_stats().num_cached_tokens > 100


def test_prefill_in_small_chunks(case: tuple[Path, list[Tokens]]) -> None:
    folder, expected = case
    engine = Engine(Load(str(folder)), num_pages=256, max_step_tokens=23)

    answers = answer(engine, [ask(n, prompt) for n, prompt in enumerate(PROMPTS)])

    assert [answers[n] for n in range(len(PROMPTS))] == expected[: len(PROMPTS)]


def test_forced_preemption(case: tuple[Path, list[Tokens]]) -> None:
    folder, expected = case
    engine = Engine(Load(str(folder)), num_pages=12, max_step_tokens=64)

    answers = answer(engine, [ask(n, prompt) for n, prompt in enumerate(SHORT)])

    assert [answers[n] for n in range(len(SHORT))] == expected[len(PROMPTS) :]
    assert engine.collect_stats().num_preemptions > 0


def test_a_page_with_wrong_keys_is_seen_in_the_answer(case: tuple[Path, list[Tokens]]) -> None:
    """The control: the comparison above fails when what a page holds is not what it is named."""
    folder, expected = case
    engine = Engine(Load(str(folder)), num_pages=256)
    answer(engine, [ask(1, PROMPTS[1])])

    for keys in engine._runner.pool.keys:
        keys.copy_(keys.flip(0))
    answers = answer(engine, [ask(1, PROMPTS[1])])

    assert engine.collect_stats().num_cached_tokens > 0
    assert answers[1] != expected[1]
