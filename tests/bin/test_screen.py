"""What is shown, and where."""

import pytest

from llmos.bin.screen import MAX_RESULT_CHARS, Screen, format_seconds


def test_words_go_into_a_pipe_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().write("a\x1b[31mb")

    assert capsys.readouterr().out == "a\x1b[31mb"


def test_a_note_is_one_line_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().note("a\x1b[2J\nb\x07")

    assert capsys.readouterr().err == "a[2J b\n"


def test_a_long_result_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().note_tool("read_file", "{}", "x" * 500, failed=False, seconds=1.5)

    shown = capsys.readouterr().err
    assert shown == f"· read_file {{}} → {'x' * (MAX_RESULT_CHARS - 1)}… (1.5 s)\n"


def test_a_failed_tool_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    Screen().note_tool("clock", "{}", "no zone x", failed=True, seconds=0.001)

    assert capsys.readouterr().err == "· clock {} → failed: no zone x (1.0 ms)\n"


def test_times_have_the_unit_that_people_say() -> None:
    assert [format_seconds(t) for t in (0.0004, 0.25, 2, 61)] == [
        "0.4 ms",
        "250.0 ms",
        "2.0 s",
        "1 min 1 s",
    ]
