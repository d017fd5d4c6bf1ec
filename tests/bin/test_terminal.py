"""A terminal at work, with a scripted kernel at the other end."""

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import TaskGroup

from llmos.bin.outlet import Outlet, open_outlet
from llmos.bin.prompt import Pipe, Prompt
from llmos.bin.terminal import Terminal, run_detached
from llmos.kernel.protocol import (
    Asked,
    Ended,
    Input,
    Interrupt,
    Notice,
    Output,
    Refused,
    Run,
    Started,
    ToolRan,
    ToTerminal,
    Withdrawn,
)
from llmos.syscalls.errors import E_ARG, E_KERNEL, ErrorReply
from llmos.syscalls.process import ExitStatus, ProcessExit

from .conftest import connected

pytestmark = pytest.mark.anyio
RUN = Run("ask", ("hi",), "/")


def ended(
    status: ExitStatus = "exited",
    code: int = 0,
    result: str = "",
    error: ErrorReply | None = None,
    printed: bool = False,
) -> Ended:
    return Ended(ProcessExit(7, status, code, result, printed=printed), error)


@asynccontextmanager
async def working() -> AsyncIterator[tuple[Outlet, TaskGroup]]:
    """A place to write to, and one for tasks."""
    async with open_outlet() as outlet, anyio.create_task_group() as group:
        yield outlet, group


async def play(home: Path, *events: ToTerminal) -> int:
    """The exit code of a terminal whose kernel says these events."""
    async with connected() as (connection, kernel), open_outlet() as outlet:
        await kernel.say(Started(7), *events)
        return await Terminal(connection, outlet, Prompt(home / "history")).run(RUN)


@pytest.fixture
def typed(tmp_path: Path) -> Iterator[tuple[Prompt, int]]:
    """A prompt, and the end of a pipe where its lines are written."""
    reader, writer = os.pipe()
    prompt = Prompt(tmp_path / "history")
    prompt._pipe = Pipe(reader)
    yield prompt, writer
    os.close(writer)
    os.close(reader)


async def test_words_go_to_stdout_and_notes_to_stderr(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tool = ToolRan(7, "calculator", '{"expression": "17 * 23"}', "391", False, 0.0004)

    code = await play(tmp_path, Notice("queued"), tool, Output(7, "39"), Output(7, "1\n"), ended())

    shown = capfd.readouterr()
    assert (code, shown.out) == (0, "391\n")
    assert shown.err == 'queued\n· calculator {"expression": "17 * 23"} → 391 (0.4 ms)\n'


async def test_what_main_returned_is_shown_if_nothing_was_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    await play(tmp_path, ended(result="42"))
    await play(tmp_path, Output(7, "a\n"), ended(result="43", printed=True))

    assert capfd.readouterr().out == "42\na\n"


async def test_an_error_is_shown_and_its_exit_code_returned(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    error = ErrorReply("E_CONTEXT", "the prompt has 9 tokens; fix: shorten it")

    code = await play(tmp_path, ended("failed", 5, error=error))

    assert code == 5
    assert capfd.readouterr().err == "llmos: the prompt has 9 tokens\nfix: shorten it\n"


async def test_a_killed_process_is_exit_code_7(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert await play(tmp_path, ended("killed", 7)) == 7
    assert capfd.readouterr().err == "llmos: process 7 was killed\n"


async def test_a_refusal_is_raised(tmp_path: Path) -> None:
    with pytest.raises(E_ARG):
        await play(tmp_path, Refused(ErrorReply("E_ARG", "no app is called x", "app")))


async def test_a_lost_kernel_tells_how_to_go_on(tmp_path: Path) -> None:
    async with connected() as (connection, kernel), working() as (outlet, group):

        async def die() -> None:
            await kernel.hear()
            await kernel.say(Started(7))
            await kernel.aclose()

        group.start_soon(die)
        with pytest.raises(E_KERNEL, match="llmos run --resume 7"):
            await Terminal(connection, outlet, Prompt(tmp_path / "history")).run(RUN)


async def test_a_question_without_anybody_to_answer_gets_the_end_of_input(tmp_path: Path) -> None:
    async with connected() as (connection, kernel), working() as (outlet, group):
        terminal = Terminal(connection, outlet, Prompt(tmp_path / "history"))
        group.start_soon(terminal.run, RUN)
        await kernel.hear()

        await kernel.say(Asked(3, 7, "you> "))

        assert await kernel.hear() == Input(3, None)
        await kernel.say(ended())


async def test_two_questions_get_a_line_each(typed: tuple[Prompt, int]) -> None:
    prompt, writer = typed
    async with connected() as (connection, kernel), working() as (outlet, group):
        group.start_soon(Terminal(connection, outlet, prompt).run, RUN)
        await kernel.hear()
        await kernel.say(Asked(1, 7, "name? "), Asked(2, 7, "age? "))
        await anyio.wait_all_tasks_blocked()
        os.write(writer, b"Ada\n36\n")

        assert [await kernel.hear(), await kernel.hear()] == [Input(1, "Ada"), Input(2, "36")]
        await kernel.say(ended())


async def test_a_question_that_is_withdrawn_leaves_the_line_to_the_next_one(
    typed: tuple[Prompt, int], capfd: pytest.CaptureFixture[str]
) -> None:
    prompt, writer = typed
    async with connected() as (connection, kernel), working() as (outlet, group):
        group.start_soon(Terminal(connection, outlet, prompt).run, RUN)
        await kernel.hear()
        await kernel.say(Started(7), Asked(1, 8, "your name? "), Asked(2, 8, "never shown"))
        await anyio.wait_all_tasks_blocked()
        await kernel.say(Withdrawn(2), Withdrawn(1), Withdrawn(1), Asked(3, 7, "llmos> "))
        await anyio.wait_all_tasks_blocked()
        os.write(writer, b"ps\n")

        assert await kernel.hear() == Input(3, "ps")
        await kernel.say(ended())

    assert capfd.readouterr().err == "process 8 no longer asks: your name?\n"


async def test_words_behind_a_question_come_line_by_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with connected() as (connection, _), open_outlet() as outlet:
        terminal = Terminal(connection, outlet, Prompt(tmp_path / "history"))
        terminal._num_questions = 1
        terminal._write(8, "a")
        terminal._write(9, "x\ny")
        terminal._num_questions = 0
        terminal._write(8, "b\nc")
        await outlet.flush()

        assert capfd.readouterr().out == "x\nab\n"
        assert terminal._unfinished == {8: "c", 9: "y"}


async def test_ctrl_c_interrupts_and_a_second_one_leaves(tmp_path: Path) -> None:
    codes: list[int] = []

    async with connected() as (connection, kernel), working() as (outlet, group):

        async def run() -> None:
            prompt = Prompt(tmp_path / "history")
            codes.append(await Terminal(connection, outlet, prompt).run(RUN))

        group.start_soon(run)
        await kernel.hear()
        os.kill(os.getpid(), signal.SIGINT)
        assert await kernel.hear() == Interrupt()
        os.kill(os.getpid(), signal.SIGINT)

    assert codes == [130]


async def test_an_interrupted_process_keeps_its_words_and_is_exit_code_130(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    codes: list[int] = []

    async with connected() as (connection, kernel), working() as (outlet, group):

        async def run() -> None:
            prompt = Prompt(tmp_path / "history")
            codes.append(await Terminal(connection, outlet, prompt).run(RUN))

        group.start_soon(run)
        await kernel.hear()
        os.kill(os.getpid(), signal.SIGINT)
        await kernel.hear()
        await kernel.say(Output(7, "part"), ended("killed", 7, printed=True))

    shown = capfd.readouterr()
    assert (codes, shown.out, shown.err) == ([130], "part", "llmos: interrupted\n")


async def test_detached_it_returns_the_pid() -> None:
    async with connected() as (connection, kernel):
        await kernel.say(Started(9))

        assert await run_detached(connection, RUN) == 9
