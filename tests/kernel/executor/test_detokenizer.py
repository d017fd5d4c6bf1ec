"""Text that grows token by token, and the strings that end it."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from llmos.kernel.executor.detokenizer import Detokenizer, StopChecker

TEXT = "Grüße, 世界! 🦊 <|im_end|> ok"


@pytest.fixture(scope="module")
def tokenizer(qwen3: Path) -> Any:
    return AutoTokenizer.from_pretrained(qwen3)


def test_pieces_join_to_the_text_without_hidden_tokens(tokenizer: Any) -> None:
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    detokenizer = Detokenizer(tokenizer, frozenset(tokenizer.all_special_ids))

    pieces = [detokenizer.add(token) for token in ids] + [detokenizer.finish()]

    assert "".join(pieces) == TEXT.replace("<|im_end|>", "")
    assert "\ufffd" not in "".join(pieces)


def test_half_a_character_is_held_back_and_then_replaced(tokenizer: Any) -> None:
    half = tokenizer.encode("🦊", add_special_tokens=False)[:2]
    detokenizer = Detokenizer(tokenizer, frozenset())

    assert [detokenizer.add(token) for token in half] == ["", ""]
    assert detokenizer.finish() == "\ufffd"


def test_text_ends_before_a_stop_string_that_comes_in_parts() -> None:
    checker = StopChecker(("END", "\n\n"))

    assert [checker.add(piece) for piece in ("one E", "N", "D two")] == ["one ", "", ""]
    assert checker.is_stopped
    assert checker.finish() == ""


def test_what_was_held_in_vain_comes_out() -> None:
    checker = StopChecker(("END",))

    assert [checker.add("an E"), checker.add("x E"), checker.finish()] == ["an ", "Ex ", "E"]


@given(st.text(alphabet="abc", max_size=30), st.lists(st.text("abc", min_size=1, max_size=4)))
def test_the_text_is_cut_at_the_first_stop_string(text: str, stops: list[str]) -> None:
    checker = StopChecker(tuple(stops))

    given_out = "".join([checker.add(character) for character in text]) + checker.finish()

    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    assert text.startswith(given_out)
    assert not any(stop in given_out for stop in stops)
    assert bool(ends) == checker.is_stopped
