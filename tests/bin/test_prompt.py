"""Lines that people and pipes give."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from llmos.bin.prompt import Interrupted, Pipe, Prompt, open_session

pytestmark = pytest.mark.anyio


async def lines_of(data: bytes) -> list[str]:
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    pipe, lines = Pipe(reading), list[str]()
    while (line := await pipe.read_line()) is not None:
        lines.append(line)
    os.close(reading)
    return lines


async def test_a_pipe_is_read_line_by_line() -> None:
    assert await lines_of(b"one\r\n\ntwo\nrest") == ["one", "", "two", "rest"]


async def test_bytes_that_are_no_text_are_replaced() -> None:
    assert await lines_of(b"a\xffb\n") == ["a\ufffdb"]


async def test_a_line_may_be_longer_than_a_read() -> None:
    assert await lines_of(b"x" * 60_000) == ["x" * 60_000]


async def test_choices_are_matched_whatever_their_case(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"maybe\n YES \n")
    os.close(writing)
    prompt = Prompt(tmp_path / "history")
    prompt._pipe = Pipe(reading)

    assert await prompt.ask("sure?", ("yes", "no")) == "yes"
    assert "one of yes, no" in capsys.readouterr().err
    assert await prompt.ask("sure?", ("yes", "no")) is None
    os.close(reading)


@pytest.fixture
def keyboard() -> Iterator[PipeInput]:
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        yield keys


async def test_a_typed_line_is_kept_in_the_history(tmp_path: Path, keyboard: PipeInput) -> None:
    session = open_session(tmp_path / "new" / "ask")
    keyboard.send_text("hello\r")

    assert await session.prompt_async("> ", handle_sigint=False) == "hello"
    assert "+hello" in (tmp_path / "new" / "ask").read_text()


async def test_ctrl_c_at_a_prompt_is_our_own_exception(tmp_path: Path, keyboard: PipeInput) -> None:
    session = open_session(tmp_path / "ask")
    keyboard.send_text("hel\x03")

    with pytest.raises(Interrupted):
        await session.prompt_async("> ", handle_sigint=False)
