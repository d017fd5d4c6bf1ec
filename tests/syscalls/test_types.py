"""The bounds of values are kept on both sides of the wire."""

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.syscalls.files import ReadFile
from llmos.syscalls.memory import Recall, Remember
from llmos.syscalls.process import Ps
from llmos.syscalls.types import (
    MAX_SEED,
    MAX_SLEEP_SECONDS,
    Message,
    Pid,
    Sampling,
    Seq,
    Strand,
    ToolCall,
)
from llmos.syscalls.values import Sleep
from llmos.syscalls.wire import decode, encode

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50)
tool_calls = st.builds(ToolCall, name=names, arguments=st.just("{}"), id=text)
messages = st.builds(
    Message,
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=text,
    tool_calls=st.lists(tool_calls, max_size=3).map(tuple),
    name=text,
    tool_call_id=text,
)


def optional(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


samplings = st.builds(
    Sampling,
    max_tokens=optional(st.integers(1, 1_000_000)),
    temperature=optional(st.floats(0, 2)),
    top_p=optional(st.floats(0, 1, exclude_min=True)),
    top_k=optional(st.integers(0, 1_000_000)),
    min_p=optional(st.floats(0, 1)),
    repetition_penalty=optional(st.floats(0, 10, exclude_min=True)),
    presence_penalty=st.floats(-2, 2),
    frequency_penalty=st.floats(-2, 2),
    seed=optional(st.integers(0, MAX_SEED)),
    stop=st.lists(names, max_size=16).map(tuple),
)


def fits(value: object, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


@given(messages)
def test_a_message_comes_back_as_it_was(message: Message) -> None:
    assert decode(encode(message), msgspec.msgpack.Decoder(Message)) == message


@given(samplings)
def test_sampling_within_its_bounds_comes_back_as_it_was(sampling: Sampling) -> None:
    assert decode(encode(sampling), msgspec.msgpack.Decoder(Sampling)) == sampling


@given(st.floats())
def test_a_temperature_is_taken_from_0_to_2_and_no_other(number: float) -> None:
    assert fits({"temperature": number}, Sampling) == (0.0 <= number <= 2.0)


@given(st.floats())
def test_a_sleep_is_never_negative_endless_or_not_a_number(number: float) -> None:
    assert fits({"seconds": number}, Sleep) == (0.0 <= number <= MAX_SLEEP_SECONDS)


@given(st.integers())
def test_pids_count_from_1_and_sequence_numbers_from_0(number: int) -> None:
    assert fits(number, Pid) == (1 <= number <= 2**53)
    assert fits(number, Seq) == (0 <= number <= 2**53)


@given(st.lists(st.integers(0, 10**9 - 1), min_size=1, max_size=16))
def test_a_path_of_numbers_is_a_strand(numbers: list[int]) -> None:
    assert fits(".".join(map(str, numbers)), Strand)


@given(st.text())
def test_no_other_text_is_a_strand(name: str) -> None:
    is_strand = re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9}){0,15}", name) is not None

    assert fits(name, Strand) == is_strand


@pytest.mark.parametrize("name", ["", "0.", ".0", "0..1", "-1", "0\n", "1" * 10, "٣", "0.1" * 40])
def test_what_only_looks_like_a_strand_is_none(name: str) -> None:
    assert not fits(name, Strand)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Message, {"role": "robot"}),
        (Message, {"role": "user", "content": "x" * 1_000_001}),
        (Message, {"role": "assistant", "tool_calls": [{"name": "a", "arguments": "{}"}] * 65}),
        (ToolCall, {"name": "", "arguments": "{}"}),
        (ToolCall, {"name": "a", "arguments": ""}),
        (Sampling, {"seed": MAX_SEED + 1}),
        (Sampling, {"stop": ["x"] * 17}),
        (Sampling, {"max_tokens": True}),
        (Remember, {"text": ""}),
        (Remember, {"text": "x", "kind": "secret"}),
        (Recall, {"query": "x", "limit": 0}),
        (ReadFile, {"path": "a", "max_chars": 200_001}),
        (ReadFile, {"path": ""}),
        (Ps, {"limit": 10_001}),
    ],
)
def test_a_value_past_its_bound_is_refused(kind: type, fields: dict[str, object]) -> None:
    assert not fits(fields, kind)
