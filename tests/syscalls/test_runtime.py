"""An app's life over its socket: HELLO, its main, and how it says that it has ended."""

import socket
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import anyio
import pytest

from llmos.syscalls.errors import E_ARG, E_FRAME, ERRORS
from llmos.syscalls.process import PidReply
from llmos.syscalls.runtime import (
    EXIT_FAILED,
    EXIT_KILLED,
    EXIT_OK,
    EXIT_USAGE,
    Program,
    load_main,
    result_text,
    serve,
)
from llmos.syscalls.stream import SocketStream
from llmos.syscalls.tasks import running
from llmos.syscalls.wire import (
    PROTOCOL_VERSION,
    Cancel,
    Deliver,
    Exit,
    Goodbye,
    Hello,
    Request,
    Welcome,
)

from .conftest import ScriptedKernel

pytestmark = pytest.mark.anyio
MakeProgram = Callable[[str], Program]
EXITS = {"E_LIMIT": 5, "E_CONTEXT": 5, "E_PERM": 6, "E_STORAGE": 3, "E_MODEL": 4, "E_CANCELLED": 7}


@pytest.fixture
def make_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeProgram]:
    """A program whose module has this code; the module is forgotten afterwards."""
    monkeypatch.setattr(sys, "path", sys.path.copy())

    def make(code: str) -> Program:
        (tmp_path / "runtime_app.py").write_text(textwrap.dedent(code))
        return Program(5, "token", "runtime_app", "main", str(tmp_path), str(tmp_path))

    yield make
    sys.modules.pop("runtime_app", None)


@pytest.fixture
async def sockets() -> AsyncIterator[tuple[socket.socket, ScriptedKernel]]:
    """The app's socket and the kernel at its other end."""
    ours, theirs = socket.socketpair()
    stream = await SocketStream.adopt(ours)
    yield theirs, ScriptedKernel(stream)
    await stream.aclose()


async def live(
    program: Program, sockets: tuple[socket.socket, ScriptedKernel], *argv: str
) -> tuple[int, Exit]:
    """Welcome an app that makes no call; its exit code and its last frame."""
    app_end, kernel = sockets
    codes: list[int] = []

    async def run() -> None:
        codes.append(await serve(program, app_end))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        assert await kernel.receive() == Hello(PROTOCOL_VERSION, 5, "token")
        await kernel.frames.send(Welcome(5, argv))
        frame = await kernel.receive()
    assert isinstance(frame, Exit)
    return codes[0], frame


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        ("plain", "plain"),
        ("", ""),
        (3, "3"),
        (True, "true"),
        ({"sum": 3}, '{"sum":3}'),
        ([1, None], "[1,null]"),
        (PidReply(4), '{"pid":4}'),
    ],
)
def test_what_main_returns_becomes_text(value: object, text: str) -> None:
    assert result_text(value) == text


async def test_an_app_gets_its_arguments_and_its_result_is_kept(
    make_program: MakeProgram, sockets: tuple[socket.socket, ScriptedKernel]
) -> None:
    program = make_program("async def main(sys, count: int, *words): return [count, *words]")

    code, last = await live(program, sockets, "2", "a", "b")

    assert (code, last) == (EXIT_OK, Exit(EXIT_OK, '[2,"a","b"]'))


@pytest.mark.parametrize("name", ERRORS)
async def test_an_error_that_main_lets_out_decides_the_exit_code(
    make_program: MakeProgram, sockets: tuple[socket.socket, ScriptedKernel], name: str
) -> None:
    program = make_program(
        f"""
        from llmos.syscalls.errors import {name}

        async def main(sys):
            raise {name}("why", field="place")
        """
    )

    code, last = await live(program, sockets)

    assert code == last.code == EXITS.get(name, EXIT_FAILED)
    assert last.error == ERRORS[name]("why", field="place").reply()


async def test_wrong_arguments_are_told_with_the_usage(
    make_program: MakeProgram, sockets: tuple[socket.socket, ScriptedKernel]
) -> None:
    program = make_program("async def main(sys, count: int): ...")

    code, last = await live(program, sockets, "many")

    assert code == last.code == EXIT_USAGE
    assert last.error is not None
    assert "usage: COUNT" in last.error.message


async def test_a_module_without_main_is_told(
    make_program: MakeProgram, sockets: tuple[socket.socket, ScriptedKernel]
) -> None:
    code, last = await live(make_program("x = 1"), sockets)

    assert code == EXIT_USAGE
    assert last.error is not None
    assert "'runtime_app' has no 'main'" in last.error.message


async def test_an_exception_of_the_apps_own_leaves_as_a_traceback(
    make_program: MakeProgram, sockets: tuple[socket.socket, ScriptedKernel]
) -> None:
    app_end, kernel = sockets
    program = make_program("async def main(sys): raise ZeroDivisionError")
    await kernel.frames.send(Welcome(5, ()))

    with pytest.raises(ZeroDivisionError):
        await serve(program, app_end)


async def test_calls_of_main_are_answered(
    make_program: MakeProgram, sockets: tuple[socket.socket, ScriptedKernel]
) -> None:
    app_end, kernel = sockets
    program = make_program("async def main(sys): return await sys.getpid()")
    await kernel.frames.send(Welcome(5, ()))

    async with running() as tasks:
        tasks.start_soon(serve, program, app_end)
        assert isinstance(await kernel.receive(), Hello)
        await kernel.reply(await kernel.receive_call(), PidReply(5))

        assert await kernel.receive() == Exit(EXIT_OK, "5")


async def test_term_cancels_main_and_its_finally_blocks_run(
    make_program: MakeProgram, sockets: tuple[socket.socket, ScriptedKernel], tmp_path: Path
) -> None:
    app_end, kernel = sockets
    program = make_program(
        f"""
        async def main(sys):
            try:
                await sys.sleep(1000)
            finally:
                open({str(tmp_path / "cleaned")!r}, "w").close()
        """
    )
    await kernel.frames.send(Welcome(5, ()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve, program, app_end)
        frames = [await kernel.receive(), await kernel.receive()]
        await kernel.frames.send(Deliver("TERM"))
        frames += [await kernel.receive(), await kernel.receive()]

    assert [type(frame) for frame in frames] == [Hello, Request, Cancel, Exit]
    assert frames[-1] == Exit(EXIT_KILLED)
    assert (tmp_path / "cleaned").exists()


async def test_branches_end_with_main(
    make_program: MakeProgram, sockets: tuple[socket.socket, ScriptedKernel], tmp_path: Path
) -> None:
    app_end, kernel = sockets
    program = make_program(
        f"""
        async def work(sys):
            try:
                await sys.sleep(1000)
            finally:
                open({str(tmp_path / "cleaned")!r}, "w").close()

        async def main(sys):
            sys.start(work(sys))
            return await sys.getpid()
        """
    )
    await kernel.frames.send(Welcome(5, ()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve, program, app_end)
        await kernel.receive()
        await kernel.reply(await kernel.receive_call(), PidReply(5))
        frames = [await kernel.receive() for _ in range(3)]

    assert [type(frame) for frame in frames] == [Request, Cancel, Exit]
    assert frames[-1] == Exit(EXIT_OK, "5")
    assert (tmp_path / "cleaned").exists()


async def test_calls_after_a_signal_are_refused_even_where_a_cancel_does_not_reach(
    make_program: MakeProgram, sockets: tuple[socket.socket, ScriptedKernel]
) -> None:
    app_end, kernel = sockets
    program = make_program(
        """
        import anyio

        async def main(sys):
            try:
                await sys.sleep(1000)
            finally:
                with anyio.CancelScope(shield=True):
                    await sys.print("bye")
        """
    )
    await kernel.frames.send(Welcome(5, ()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve, program, app_end)
        await kernel.receive()
        await kernel.receive_call()
        await kernel.frames.send(Deliver("TERM"))
        frames = [await kernel.receive() for _ in range(2)]

    assert isinstance(frames[0], Cancel)
    assert isinstance(frames[1], Exit)
    assert frames[1].error is not None
    assert (frames[1].code, frames[1].error.code) == (EXIT_KILLED, "E_CANCELLED")


@pytest.mark.parametrize("says_why", [False, True])
async def test_an_app_whose_kernel_is_gone_cleans_up_and_ends(
    make_program: MakeProgram,
    sockets: tuple[socket.socket, ScriptedKernel],
    tmp_path: Path,
    says_why: bool,
) -> None:
    app_end, kernel = sockets
    program = make_program(
        f"""
        async def main(sys):
            try:
                await sys.sleep(1000)
            finally:
                open({str(tmp_path / "cleaned")!r}, "w").close()
        """
    )
    await kernel.frames.send(Welcome(5, ()))
    codes: list[int] = []

    async def run() -> None:
        codes.append(await serve(program, app_end))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await kernel.receive()
        await kernel.receive_call()
        if says_why:
            await kernel.frames.send(Goodbye(E_FRAME("garbage").reply()))
        await kernel.frames.aclose()

    assert codes == [EXIT_KILLED]
    assert (tmp_path / "cleaned").exists()


async def test_a_signal_before_the_welcome_ends_the_app_unrun(
    make_program: MakeProgram, sockets: tuple[socket.socket, ScriptedKernel]
) -> None:
    app_end, kernel = sockets
    await kernel.frames.send(Deliver("TERM"))

    assert await serve(make_program("raise ImportError"), app_end) == EXIT_KILLED


def test_a_program_without_a_folder_is_found_on_the_import_path() -> None:
    program = Program(5, "token", "llmos.apps.ask.main", "main", None, ".")

    assert load_main(program).__module__ == "llmos.apps.ask.main"
    with pytest.raises(E_ARG, match="has no 'nothing'"):
        load_main(Program(5, "token", "llmos.apps.ask.main", "nothing", None, "."))
