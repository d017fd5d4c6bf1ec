"""An app's log: all that it writes past the syscalls is shown, and a bounded part of it is kept."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from llmos.kernel.applog import MAX_LOG_BYTES, AppLog
from llmos.kernel.protocol import Logged
from llmos.kernel.terminal import Terminal
from llmos.syscalls.stream import SocketStream

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def relaying(log: AppLog) -> AsyncIterator[SocketStream]:
    """The app's end of the log; when it is closed all has been passed on."""
    ours, theirs = socket.socketpair()
    kernel_end, app_end = await SocketStream.adopt(ours), await SocketStream.adopt(theirs)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(log.relay, kernel_end)
        yield app_end
        await app_end.aclose()
    await kernel_end.aclose()


async def shown(terminal: Terminal) -> str:
    """All that the person saw."""
    terminal.close()
    text = ""
    while (event := await terminal.next_event()) is not None:
        assert isinstance(event, Logged)
        text += event.text
    return text


async def test_what_is_written_is_shown_and_kept(tmp_path: Path) -> None:
    terminal, path = Terminal(), tmp_path / "1.log"

    async with relaying(AppLog(1, path, terminal)) as app:
        await app.send(b"one\n")
        await app.send(b"two\n")

    assert path.read_bytes() == b"one\ntwo\n"
    assert await shown(terminal) == "one\ntwo\n"


async def test_a_log_without_a_word_is_an_empty_file(tmp_path: Path) -> None:
    log = AppLog(1, tmp_path / "1.log", Terminal())

    async with relaying(log):
        pass

    assert log.path.read_bytes() == b""
    assert log.last_words() == ""


async def test_a_character_that_arrives_in_two_parts_is_shown_whole(tmp_path: Path) -> None:
    terminal = Terminal()

    async with relaying(AppLog(1, tmp_path / "1.log", terminal)) as app:
        for byte in "zwölf 🦊".encode():
            await app.send(bytes([byte]))
            await anyio.wait_all_tasks_blocked()

    assert await shown(terminal) == "zwölf 🦊"


async def test_bytes_that_are_no_text_are_shown_as_such_and_kept_as_they_are(
    tmp_path: Path,
) -> None:
    terminal, path = Terminal(), tmp_path / "1.log"

    async with relaying(AppLog(1, path, terminal)) as app:
        await app.send(b"a\xff\xe2")

    assert path.read_bytes() == b"a\xff\xe2"
    assert await shown(terminal) == "a��"


async def test_the_file_stops_at_its_bound_and_the_person_sees_on(tmp_path: Path) -> None:
    terminal, path = Terminal(), tmp_path / "1.log"
    texts: list[str] = []

    async def read() -> None:
        while isinstance(event := await terminal.next_event(), Logged):
            texts.append(event.text)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        async with relaying(AppLog(1, path, terminal)) as app:
            await app.send(b"x" * (MAX_LOG_BYTES + 10) + b"end")
        terminal.close()

    assert path.stat().st_size == MAX_LOG_BYTES
    assert "".join(texts) == "x" * (MAX_LOG_BYTES + 10) + "end"


async def test_a_resumed_process_goes_on_in_the_same_file_within_the_same_bound(
    tmp_path: Path,
) -> None:
    path = tmp_path / "1.log"
    path.write_bytes(b"x" * (MAX_LOG_BYTES - 3))

    async with relaying(AppLog(1, path, Terminal())) as app:
        await app.send(b"abcdef")

    assert path.stat().st_size == MAX_LOG_BYTES
    assert path.read_bytes().endswith(b"xabc")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"Traceback:\n  File x\nValueError: no\n\n", "ValueError: no"),
        (b"one line", "one line"),
        (b"  \n\n", ""),
        (b"x\n" * 10_000 + b"last\n", "last"),
    ],
)
async def test_the_last_words_are_the_last_line(tmp_path: Path, data: bytes, words: str) -> None:
    log = AppLog(1, tmp_path / "1.log", Terminal())

    async with relaying(log) as app:
        await app.send(data)

    assert log.last_words() == words
