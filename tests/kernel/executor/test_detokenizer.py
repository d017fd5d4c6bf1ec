"""Text that grows token by token, and the strings that end it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from llmos.kernel.executor.detokenizer import Detokenizer, StopChecker, find_byte_tokens

from .families import FAMILIES

TOKENIZERS = {name: make() for name, make in FAMILIES.items()}
NUMBERS = st.lists(st.integers(0, 10_000), max_size=40)
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


def stream(tokenizer: Any, ids: list[int]) -> str:
    detokenizer = Detokenizer(tokenizer, frozenset(tokenizer.all_special_ids))
    return "".join([detokenizer.add(token) for token in ids]) + detokenizer.finish()


def show(tokenizer: Any, ids: list[int]) -> str:
    """The whole text at once."""
    hidden = tokenizer.all_special_ids
    return str(tokenizer.decode([one for one in ids if one not in hidden]))


def choose(tokens: Sequence[int], numbers: list[int]) -> list[int]:
    return [tokens[number % len(tokens)] for number in numbers]


@pytest.mark.parametrize("name", FAMILIES)
@given(numbers=NUMBERS)
def test_pieces_of_any_tokens_join_to_the_whole_text(name: str, numbers: list[int]) -> None:
    """Bytes that a tokenizer falls back to are left to the tests below."""
    tokenizer = TOKENIZERS[name]
    left_out = find_byte_tokens(tokenizer)
    ids = choose([one for one in range(len(tokenizer)) if one not in left_out], numbers)

    assert stream(tokenizer, ids) == show(tokenizer, ids)


@given(numbers=NUMBERS)
def test_pieces_of_broken_characters_join_to_the_whole_text(numbers: list[int]) -> None:
    tokenizer = TOKENIZERS["byte level"]
    parts = [one for one in range(len(tokenizer)) if "\ufffd" in tokenizer.decode([one])]
    ids = choose(parts, numbers)

    assert stream(tokenizer, ids) == show(tokenizer, ids)


@pytest.mark.parametrize("name", FAMILIES)
@given(text=st.text(max_size=30))
def test_pieces_of_a_text_join_to_the_whole_text(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(text)

    assert stream(tokenizer, ids) == show(tokenizer, ids)


@pytest.mark.parametrize("name", ["llama", "gemma"])
@given(data=st.binary(min_size=1, max_size=20))
def test_bytes_that_are_fallen_back_to_are_read_as_a_broken_file_is(name: str, data: bytes) -> None:
    tokenizer = TOKENIZERS[name]
    of_bytes = {byte: token for token, byte in find_byte_tokens(tokenizer).items()}
    (start,) = tokenizer.convert_tokens_to_ids(["he"])

    found = stream(
        tokenizer, [start, *(of_bytes[data[i : i + 1]] for i in range(len(data))), start]
    )

    assert len(of_bytes) == 256
    assert found == "he" + data.decode(errors="replace") + "he"


def test_no_character_is_held_back_once_it_is_whole() -> None:
    tokenizer = TOKENIZERS["gemma"]
    detokenizer = Detokenizer(tokenizer, frozenset())

    pieces = [detokenizer.add(token) for token in tokenizer.encode("\U0001f98a\u00f8")]

    assert pieces == ["", "", "", "\U0001f98a", "", "\u00f8"]


@pytest.mark.parametrize("name", FAMILIES)
@settings(max_examples=50)
@given(numbers=NUMBERS, start=st.integers(0, 60), size=st.integers(1, 8))
def test_a_stop_string_is_found_across_the_borders_of_tokens(
    name: str, numbers: list[int], start: int, size: int
) -> None:
    tokenizer = TOKENIZERS[name]
    ids = choose(range(len(tokenizer)), numbers)
    whole = stream(tokenizer, ids)
    stop = whole[start : start + size] or "stop"
    detokenizer = Detokenizer(tokenizer, frozenset(tokenizer.all_special_ids))
    checker = StopChecker((stop,))

    pieces = [checker.add(detokenizer.add(token)) for token in ids]
    pieces += [checker.add(detokenizer.finish()), checker.finish()]

    assert "".join(pieces) == whole.partition(stop)[0]
    assert checker.is_stopped == (stop in whole)
