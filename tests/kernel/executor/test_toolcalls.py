"""Tool calls in streamed text, in whatever pieces the text arrives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.kernel.executor.toolcalls import Family, ToolCallParser, detect_family
from llmos.syscalls.types import ToolCall

CLOCK = ToolCall("clock", '{"zone": "UTC"}', "call00000")
CALL = '{"name": "clock", "arguments": {"zone": "UTC"}}'
LLAMA = '{"name": "clock", "parameters": {"zone": "UTC"}}'
CASES: list[tuple[Family, str, str]] = [
    ("hermes", f"Let me see.\n<tool_call>\n{CALL}\n</tool_call> Done.", "Let me see.\n Done."),
    ("hermes", f"<tool_call>{CALL}", ""),
    ("llama", LLAMA, ""),
    ("llama", f"<|python_tag|>{LLAMA}", ""),
    ("llama", f"Wait: <|python_tag|>{LLAMA}", "Wait: "),
    ("mistral", f"[TOOL_CALLS][{CALL}]", ""),
    ("mistral", 'I look. [TOOL_CALLS]clock{"zone": "UTC"}', "I look. "),
    ("mistral", '[TOOL_CALLS]clock[ARGS]{"zone": "UTC"}', ""),
]
PLAIN: list[tuple[Family, str]] = [
    ("hermes", "<tool_call>{not json}</tool_call> and <b>more</b>"),
    ("hermes", '<tool_call>{"name": 3, "arguments": {}}</tool_call>'),
    ("hermes", "a < b and <tool"),
    ("llama", '{"answer": 42}'),
    ("llama", '{"name": "clock", "parameters"'),
    ("llama", "{ a brace in a sentence"),
    ("mistral", "[TOOL_CALLS] is a marker"),
    ("mistral", '[TOOL_CALLS][{"name": "clock", "arguments": 3}]'),
]


def parse(family: Family, pieces: list[str]) -> tuple[str, list[ToolCall]]:
    parser = ToolCallParser(family)
    visible = "".join([parser.add(piece) for piece in pieces]) + parser.finish()
    return visible, parser.calls


@pytest.mark.parametrize(("family", "text", "visible"), CASES)
def test_a_call_is_found_and_the_text_around_it_kept(
    family: Family, text: str, visible: str
) -> None:
    assert parse(family, [text]) == (visible, [CLOCK])


@pytest.mark.parametrize(("family", "text", "visible"), CASES)
def test_a_call_is_found_in_single_characters(family: Family, text: str, visible: str) -> None:
    assert parse(family, list(text)) == (visible, [CLOCK])


@pytest.mark.parametrize(("family", "text"), PLAIN)
def test_what_cannot_be_read_is_text(family: Family, text: str) -> None:
    assert parse(family, list(text)) == (text, [])


def test_two_calls_get_ids_of_their_own() -> None:
    _, calls = parse("hermes", [f"<tool_call>{CALL}</tool_call>" * 2])

    assert [call.id for call in calls] == ["call00000", "call00001"]


def test_text_before_a_possible_marker_is_not_held_back() -> None:
    parser = ToolCallParser("hermes")

    assert [parser.add(piece) for piece in ("Hello <", "b> <tool", "box>")] == [
        "Hello ",
        "<b> ",
        "<toolbox>",
    ]


def test_an_answer_in_json_streams_once_it_is_no_call() -> None:
    parser = ToolCallParser("llama")

    assert [parser.add(piece) for piece in ('{"', "answer", '": 4', "2}")] == [
        "",
        "",
        '{"answer": 4',
        "2}",
    ]


@given(st.text(alphabet='<tool_cal>{}[TOOLS]" n/|', max_size=60), st.integers(1, 7))
def test_text_without_a_whole_call_comes_out_unchanged(text: str, size: int) -> None:
    pieces = [text[start : start + size] for start in range(0, len(text), size)]

    for family in ("hermes", "llama", "mistral"):
        visible, calls = parse(family, pieces)
        assert calls or visible == text


@pytest.mark.parametrize(
    ("template", "vocabulary", "family"),
    [
        ("… <tool_call> …", (), "hermes"),
        ("… [TOOL_CALLS] …", (), "mistral"),
        ("", ("<|python_tag|>",), "llama"),
        ("", (), "hermes"),
    ],
)
def test_a_family_is_known_by_its_markers(
    template: str, vocabulary: tuple[str, ...], family: Family
) -> None:
    assert detect_family(template, vocabulary) == family
