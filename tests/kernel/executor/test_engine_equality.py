"""The engine's correctness test: greedy output is transformers' own, token for token."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from llmos.kernel.executor.engine import Engine
from llmos.kernel.executor.model import Model, load_model
from llmos.kernel.executor.protocol import Done, Generate, Load
from llmos.syscalls.types import Message, Sampling

from .answers import Tokens, Transformers
from .conftest import CONFIGS, run

NUM_NEW = 32
PROMPTS = [
    "hi",
    "Tell me a story about a fox. " * 4,
    "What is 2 + 2?",
    "Once upon a time there was " * 7,
    "Tell me a story about a fox. " * 5,
]
SHORT = ["hi", "What is 2 + 2?", "Why?", "Sing me a song.", "Who are you?", "Name a colour."]


def ask(number: int, prompt: str) -> Generate:
    sampling = Sampling(max_tokens=NUM_NEW, temperature=0.0)
    return Generate(number, (Message("user", prompt),), sampling=sampling)


def answer(engine: Engine, requests: Iterable[Generate]) -> dict[int, Tokens]:
    return {one.id: one.tokens for one in run(engine, *requests) if isinstance(one, Done)}


class Case:
    """An architecture, and what transformers answers with it."""

    def __init__(self, folder: Path) -> None:
        self.spec = Load(str(folder), dtype="float32")
        self.model: Model = load_model(self.spec)
        peer = Transformers(folder, self.model.tokenizer)
        known = {prompt: peer.answer(prompt, NUM_NEW) for prompt in {*PROMPTS, *SHORT}}
        self.expected = [known[prompt] for prompt in PROMPTS]
        self.expected_short = [known[prompt] for prompt in SHORT]

    def make_engine(self, num_pages: int = 256, max_step_tokens: int = 512) -> Engine:
        return Engine(
            self.spec, model=self.model, num_pages=num_pages, max_step_tokens=max_step_tokens
        )


@pytest.fixture(scope="module", params=CONFIGS)
def case(request: pytest.FixtureRequest, make_checkpoint: Callable[[str], Path]) -> Case:
    return Case(make_checkpoint(request.param))


def test_one_generation_at_a_time(case: Case) -> None:
    engine = case.make_engine()

    answers = [answer(engine, [ask(n, prompt)])[n] for n, prompt in enumerate(PROMPTS)]

    assert answers == case.expected
    assert len(set(answers)) > 2


def test_all_in_one_batch_and_again_with_prefixes_reused(case: Case) -> None:
    engine = case.make_engine()

    first = answer(engine, [ask(n, prompt) for n, prompt in enumerate(PROMPTS)])
    second = answer(engine, [ask(n, prompt) for n, prompt in enumerate(PROMPTS)])

    assert list(dict(sorted(first.items())).values()) == case.expected
    assert first == second
    assert engine.collect_stats().num_cached_tokens > 100


def test_prefill_in_small_chunks(case: Case) -> None:
    engine = case.make_engine(max_step_tokens=23)

    answers = answer(engine, [ask(n, prompt) for n, prompt in enumerate(PROMPTS)])

    assert [answers[n] for n in range(len(PROMPTS))] == case.expected


def test_forced_preemption(case: Case) -> None:
    engine = case.make_engine(num_pages=12, max_step_tokens=64)

    answers = answer(engine, [ask(n, prompt) for n, prompt in enumerate(SHORT)])

    assert [answers[n] for n in range(len(SHORT))] == case.expected_short
    assert engine.collect_stats().num_preemptions > 0


def test_a_page_with_wrong_keys_is_seen_in_the_answer(case: Case) -> None:
    """The control: the comparison above fails when what a page holds is not what it is named."""
    engine, requests = case.make_engine(), [ask(n, prompt) for n, prompt in enumerate(PROMPTS)]
    answer(engine, requests)

    for keys in engine._runner.pool.keys:
        keys.copy_(keys.flip(0))
    answers = answer(engine, requests)

    assert engine.collect_stats().num_cached_tokens > 0
    assert [answers[n] for n in range(len(PROMPTS))] != case.expected
