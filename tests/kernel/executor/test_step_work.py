"""A decode's work in Python does not depend on the length of its context: counted, not timed."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from llmos.kernel.executor.engine import PAGE_SIZE, Engine
from llmos.kernel.executor.protocol import Generate, Load
from llmos.kernel.executor.sequence import Sequence
from llmos.syscalls.types import Message, Sampling

from .conftest import SHAPE, make_tokenizer

ENDLESS = Sampling(max_tokens=1000, temperature=0.0, stop=("<never>",))
SHORT, LONG = 100, 4000


class CountedList(list[Any]):
    """A list that counts the items which are read from it."""

    num_read = 0

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        self.num_read += len(found) if isinstance(key, slice) else 1
        return found

    def __iter__(self) -> Iterator[Any]:
        self.num_read += len(self)
        return super().__iter__()


@pytest.fixture(scope="module")
def long_window(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose window is long and which never ends an answer."""
    torch.manual_seed(3)
    shape = SHAPE | {"num_hidden_layers": 1, "max_position_embeddings": 8192, "eos_token_id": None}
    folder = tmp_path_factory.mktemp("long")
    config = Qwen3Config(**shape)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    return folder


def begin_decoding(folder: Path, num_tokens: int) -> tuple[Engine, Sequence]:
    """An engine that decodes one generation of about so many tokens, at the start of a page."""
    engine = Engine(Load(str(folder), device="cpu", dtype="float32"), num_pages=400)
    text = "hi " * (num_tokens // 2)
    engine.submit(Generate(1, (Message("user", text),), sampling=ENDLESS))
    (sequence,) = engine._scheduler.waiting
    while not sequence.num_completion or len(sequence.tokens) % PAGE_SIZE:
        engine.step()
    return engine, sequence


def count_calls(run: Callable[[], object]) -> Counter[str]:
    """How often each function was called, those of our own modules and of C."""
    counts: Counter[str] = Counter()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            counts[frame.f_code.co_qualname] += 1
        elif event == "c_call":
            counts[argument.__qualname__] += 1

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return counts


def run_page(engine: Engine) -> None:
    """As many decodes as fill one page."""
    for _ in range(PAGE_SIZE):
        engine.step()


def test_the_calls_of_a_page_of_decodes_are_the_same_at_any_length(long_window: Path) -> None:
    counts = []
    for num_tokens in (SHORT, LONG):
        engine, sequence = begin_decoding(long_window, num_tokens)
        counts.append(count_calls(lambda engine=engine: run_page(engine)))  # type: ignore[misc]
        assert len(sequence.tokens) > num_tokens

    assert sum(counts[0].values()) > 1000
    assert sum(counts[1].values()) <= 1.02 * sum(counts[0].values()), counts[1] - counts[0]


@pytest.mark.parametrize("num_tokens", [SHORT, LONG])
def test_a_decode_reads_a_few_tokens_and_names_of_its_sequence(
    long_window: Path, num_tokens: int
) -> None:
    engine, sequence = begin_decoding(long_window, num_tokens)
    sequence.tokens, sequence.names = CountedList(sequence.tokens), CountedList(sequence.names)

    run_page(engine)

    assert PAGE_SIZE <= sequence.tokens.num_read <= 4 * PAGE_SIZE
    assert sequence.names.num_read <= PAGE_SIZE


def test_the_counts_see_a_copy_of_the_context(long_window: Path) -> None:
    _, sequence = begin_decoding(long_window, LONG)
    sequence.names = CountedList(sequence.names)

    sequence.name_pages(PAGE_SIZE, len(sequence.tokens))

    assert sequence.names.num_read > LONG // PAGE_SIZE // 2
