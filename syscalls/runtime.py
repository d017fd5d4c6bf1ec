"""What runs in an app's OS process: load its main, say HELLO, run, say how it ended."""

import importlib
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any

import anyio
import msgspec

from .argv import bind_argv
from .client import System
from .errors import E_ARG, SyscallError
from .idleness import AppLoop
from .stream import SocketStream
from .tasks import running
from .wire import GONE, PROTOCOL_VERSION, Exit, FrameStream, Hello, Welcome

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_KILLED = 0, 1, 2, 7
EXIT_CODES = {"E_ARG": EXIT_FAILED, "E_LIMIT": 5, "E_CONTEXT": 5, "E_PERM": 6}
EXIT_CODES |= {"E_STORAGE": 3, "E_MODEL": 4, "E_CANCELLED": EXIT_KILLED}


class Program(msgspec.Struct, frozen=True):
    """What the kernel tells the zygote to start: an app's code and its place.

    `module` is imported, after `folder` (if any) is put first on the import path; `function` is
    its main. `workspace` becomes the working directory.
    """

    pid: int
    token: str
    module: str
    function: str
    folder: str | None
    workspace: str


def load_main(program: Program) -> Callable[..., Awaitable[object]]:
    """Import the app and return its main. Raises E_ARG when there is no such function."""
    if program.folder is not None:
        sys.path.insert(0, program.folder)
    module = importlib.import_module(program.module)
    main: Callable[..., Awaitable[object]] | None = getattr(module, program.function, None)
    if main is None:
        raise E_ARG(f"module {program.module!r} has no {program.function!r}", field="main")
    return main


def result_text(value: object) -> str:
    """What main returned, as text: strings as they are, None as nothing, the rest as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


async def serve(program: Program, raw: socket.socket) -> int:
    """Run the app's main over this socket; returns the exit code."""
    async with aclosing(FrameStream(await SocketStream.adopt(raw))) as stream:
        return await _live(program, stream)


async def _live(program: Program, stream: FrameStream) -> int:
    await stream.send(Hello(PROTOCOL_VERSION, program.pid, program.token))
    system = System(stream)
    welcome = await system.hear()
    if not isinstance(welcome, Welcome):
        return EXIT_KILLED
    try:
        main = load_main(program)
        bound = bind_argv(main, welcome.argv)
    except E_ARG as error:
        await stream.send(Exit(EXIT_USAGE, error=error.reply()))
        return EXIT_USAGE
    ending = Exit(EXIT_FAILED)  # of a main that raises; its traceback says why
    try:
        ending = await _run_until_signal(system, main, bound.args, bound.kwargs)
    finally:
        with suppress(*GONE):
            await stream.send(ending)
    return ending.code


async def _run_until_signal(
    system: System, main: Callable[..., Awaitable[object]], args: Any, kwargs: Any
) -> Exit:
    """Run main beside the reader; TERM, a checkpoint or the kernel's end cancels main."""
    alive = anyio.CancelScope()

    async def read() -> None:
        with suppress(*GONE, SyscallError):
            await system.hear()
        system.close()
        alive.cancel()

    async with running() as tasks:
        tasks.start_soon(read)
        try:
            with alive:
                return Exit(EXIT_OK, result_text(await main(system, *args, **kwargs)))
        except SyscallError as error:
            return Exit(EXIT_CODES.get(error.code, EXIT_FAILED), error=error.reply())
        finally:
            await system.end_branches()
        return Exit(EXIT_KILLED)


def run_app(program: Program, raw: socket.socket) -> int:
    """Run an app to its end in this OS process; returns its exit code.

    An exception that is no SyscallError leaves as a traceback on stderr, like any program's.
    """
    return anyio.run(serve, program, raw, backend_options={"loop_factory": AppLoop})
