"""What is shown, and where."""

import pytest

from llmos.bin.outlet import open_outlet
from llmos.bin.screen import MAX_RESULT_CHARS, Screen, format_seconds

pytestmark = pytest.mark.anyio


async def test_words_go_into_a_pipe_as_they_are(capfd: pytest.CaptureFixture[str]) -> None:
    async with open_outlet() as outlet:
        Screen(outlet).write("a\x1b[31mb")

    assert capfd.readouterr().out == "a\x1b[31mb"


async def test_a_note_is_one_line_without_control_characters(
    capfd: pytest.CaptureFixture[str],
) -> None:
    async with open_outlet() as outlet:
        Screen(outlet).note("a\x1b[2J\nb\x07")

    assert capfd.readouterr().err == "a[2J b\n"


async def test_a_long_result_is_cut(capfd: pytest.CaptureFixture[str]) -> None:
    async with open_outlet() as outlet:
        Screen(outlet).note_tool("read_file", "{}", "x" * 500, failed=False, seconds=1.5)

    shown = capfd.readouterr().err
    assert shown == f"· read_file {{}} → {'x' * (MAX_RESULT_CHARS - 1)}… (1.5 s)\n"


async def test_a_failed_tool_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    async with open_outlet() as outlet:
        Screen(outlet).note_tool("clock", "{}", "no zone x", failed=True, seconds=0.001)

    assert capfd.readouterr().err == "· clock {} → failed: no zone x (1.0 ms)\n"


async def test_a_line_is_ended_once(capfd: pytest.CaptureFixture[str]) -> None:
    async with open_outlet() as outlet:
        screen = Screen(outlet)
        screen.write("no end")
        screen.end_line()
        screen.end_line()

    assert capfd.readouterr().out == "no end\n"


def test_times_have_the_unit_that_people_say() -> None:
    assert [format_seconds(t) for t in (0.0004, 0.25, 2, 61)] == [
        "0.4 ms",
        "250.0 ms",
        "2.0 s",
        "1 min 1 s",
    ]
