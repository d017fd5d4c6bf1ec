"""A reader who pauses, one who leaves, and one who comes back."""

import io
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, redirect_stdout

import anyio
import pytest

from llmos.bin.outlet import MAX_WAITING_CHARS, Outlet, open_outlet

pytestmark = pytest.mark.anyio
Pipe = tuple[io.FileIO, io.TextIOWrapper]
MUCH = "x" * (MAX_WAITING_CHARS + 200_000)  # more than the buffer and a pipe hold


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """A pipe: its reader and its writer."""
    read_end, write_end = os.pipe()
    with (
        open(read_end, "rb", buffering=0) as reader,
        open(write_end, "w", encoding="utf-8") as writer,
    ):
        yield reader, writer


@asynccontextmanager
async def open_pipe(
    pipe: Pipe,
) -> AsyncIterator[tuple[Outlet, io.FileIO]]:
    """An outlet whose stdout is the pipe, and the pipe's reader."""
    with redirect_stdout(pipe[1]):
        async with open_outlet() as outlet:
            yield outlet, pipe[0]


def read_all(reader: io.FileIO, num_bytes: int) -> bytes:
    data = b""
    while len(data) < num_bytes:
        data += reader.read(num_bytes - len(data)) or b""
    return data


async def test_words_arrive_in_order(pipe: Pipe) -> None:
    async with open_pipe(pipe) as (outlet, reader):
        for word in ("grö", "ß", "er"):
            outlet.put(word)
            await anyio.lowlevel.checkpoint()

    assert reader.read(100) == "größer".encode()


async def test_a_reader_who_pauses_stalls_only_who_waits_for_room(pipe: Pipe) -> None:
    async with open_pipe(pipe) as (outlet, reader):
        outlet.put(MUCH)
        outlet.put(MUCH)
        with anyio.move_on_after(0.1) as scope:
            await outlet.wait_for_room()

        assert scope.cancelled_caught
        data = await anyio.to_thread.run_sync(read_all, reader, 2 * len(MUCH))

    assert data == 2 * MUCH.encode()


async def test_in_a_hurry_nobody_waits_for_a_reader_who_pauses(pipe: Pipe) -> None:
    async with open_pipe(pipe) as (outlet, _):
        outlet.put(MUCH)
        outlet.put(MUCH)
        outlet.hurry()
        outlet.put(MUCH)

        with anyio.fail_after(5):
            await outlet.wait_for_room()
            await outlet.flush()

        assert outlet.num_waiting_chars <= 2 * len(MUCH)


async def test_ctrl_c_wakes_who_waits() -> None:
    outlet = Outlet()
    outlet.put(MUCH)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(outlet.wait_for_room)
            tasks.start_soon(outlet.flush)
            await anyio.wait_all_tasks_blocked()
            outlet.hurry()


async def test_a_reader_who_leaves_ends_it(pipe: Pipe) -> None:
    async def leave() -> None:
        async with open_pipe(pipe) as (outlet, reader):
            reader.close()
            outlet.put("x")
            await anyio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        await leave()

    assert isinstance(caught.value.exceptions[0], BrokenPipeError)


async def test_what_a_prompt_stands_in_front_of_goes_through_the_prompt() -> None:
    prompt = io.StringIO()
    master, slave = os.openpty()
    with os.fdopen(slave, "w", encoding="utf-8") as screen, redirect_stdout(screen):
        async with open_outlet() as outlet:
            with redirect_stdout(prompt):
                outlet.put("above")
    os.close(master)

    assert prompt.getvalue() == "above"


async def test_what_goes_to_a_file_goes_there_while_a_prompt_stands_elsewhere(pipe: Pipe) -> None:
    prompt = io.StringIO()
    async with open_pipe(pipe) as (outlet, reader):
        os.set_blocking(reader.fileno(), False)
        with redirect_stdout(prompt):
            outlet.put("into the file")

    assert (reader.read(100), prompt.getvalue()) == (b"into the file", "")
