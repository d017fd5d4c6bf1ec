"""Cuts: what a process had made after its first calls."""

from collections.abc import Callable

import msgspec
import pytest

from llmos.memory import contexts
from llmos.memory.cuts import Cut, copy_cut, read_cut, read_messages, read_texts
from llmos.memory.db import Connection, Database
from llmos.memory.journal import (
    JournalState,
    append_output,
    begin_anew,
    insert_row,
    load,
    read_output,
)
from llmos.syscalls.errors import E_ARG, E_STORAGE
from llmos.syscalls.memory import ContextCreated, ContextLength
from llmos.syscalls.process import Checkpointed
from llmos.syscalls.types import Message, Usage

from .test_journal import row

pytestmark = pytest.mark.anyio
Made = Callable[[Connection], msgspec.Struct | None]


async def do(db: Database, seq: int, name: str, made: Made, state: JournalState = "DONE") -> None:
    """One call of process 1: its effect and its row in one transaction, as the kernel does it."""

    def operation(connection: Connection) -> None:
        reply = made(connection)
        result = msgspec.msgpack.encode(reply) if state == "DONE" else None
        change = {"name": name, "state": state, "result": result}
        insert_row(connection, msgspec.structs.replace(row(seq), **change))

    await db.write(operation)


def create(*texts: str) -> Made:
    messages = tuple(Message("user", text) for text in texts)
    return lambda connection: ContextCreated(contexts.create(connection, 1, messages))


def append(number: int, *texts: str) -> Made:
    def made(connection: Connection) -> ContextLength:
        messages = tuple(Message("user", text) for text in texts)
        num_messages = contexts.append(connection, 1, number, messages)
        return ContextLength(num_messages, number, num_messages - len(texts))

    return made


def write(seq: int, text: str) -> Made:
    def made(connection: Connection) -> None:
        append_output(connection, 1, text, ("0", seq))

    return made


async def live(db: Database) -> None:
    """Six calls that make two contexts and three lines of output."""
    await do(db, 0, "context_create", create("a"))
    await do(db, 1, "print", write(1, "one\n"))
    await do(db, 2, "context_append", append(1, "b", "c"))
    await do(db, 3, "context_create", create())
    await do(db, 4, "print", write(4, "two\n"))
    await do(db, 5, "context_append", append(2, "d"))
    await do(db, 6, "context_append", append(1, "e"))


async def cut_at(db: Database, number: int | None) -> Cut:
    return await db.read(lambda connection: read_cut(connection, 1, number))


@pytest.mark.parametrize(
    ("number", "lengths", "output"),
    [
        (0, {}, ""),
        (1, {1: 1}, ""),
        (2, {1: 1}, "one\n"),
        (3, {1: 3}, "one\n"),
        (4, {1: 3, 2: 0}, "one\n"),
        (5, {1: 3, 2: 0}, "one\ntwo\n"),
        (6, {1: 3, 2: 1}, "one\ntwo\n"),
        (7, {1: 4, 2: 1}, "one\ntwo\n"),
        (None, {1: 4, 2: 1}, "one\ntwo\n"),
    ],
)
async def test_a_process_had_then_what_its_first_calls_had_made(
    db: Database, number: int | None, lengths: dict[int, int], output: str
) -> None:
    await live(db)

    cut = await cut_at(db, number)

    texts = await db.read(lambda c: [text for text, _ in read_texts(c, cut)])
    assert (cut.lengths, "".join(texts)) == (lengths, output)


async def test_a_contexts_messages_are_its_first_ones(db: Database) -> None:
    await live(db)
    cut = await cut_at(db, 4)

    messages = await db.read(lambda c: read_messages(c, cut, 1))

    assert [message.content for message in messages] == ["a", "b", "c"]


async def test_a_step_that_was_never_made_is_named(db: Database) -> None:
    await live(db)

    with pytest.raises(E_ARG, match="process 1 has made 7 calls, not 8; fix: --at 7") as caught:
        await cut_at(db, 8)

    assert caught.value.field == "at"


async def test_a_copy_is_a_whole_journal_of_another_process(db: Database) -> None:
    await live(db)
    cut = await cut_at(db, 4)

    await db.write(lambda c: copy_cut(c, cut, 9))

    copied = await load(db, 9)  # which proves checksums and chain
    assert [msgspec.structs.replace(one, pid=1) for one in copied] == list(cut.calls)
    assert await read_output(db, 9) == "one\n"
    assert await db.read(lambda c: contexts.count_messages(c, 9)) == {1: 3, 2: 0}
    assert await read_output(db, 1) == "one\ntwo\n"


async def test_a_call_without_an_ending_is_not_copied_nor_what_it_wrote(db: Database) -> None:
    await do(db, 0, "print", write(0, "one\n"))
    await do(db, 1, "generate", write(1, "half"), state="INTENT")
    await do(db, 2, "print", write(2, "two\n"))
    cut = await cut_at(db, None)

    await db.write(lambda c: copy_cut(c, cut, 9))

    assert [one.seq for one in await load(db, 9)] == [0, 2]
    assert await read_output(db, 9) == "one\ntwo\n"


async def test_what_was_there_before_all_calls_belongs_to_every_cut(db: Database) -> None:
    await db.write(lambda c: append_output(c, 1, "before\n"))
    number = await db.write(lambda c: contexts.create(c, 1, (Message("user", "a"),)))
    await do(db, 0, "context_append", append(number, "b"))

    cut = await cut_at(db, 0)

    assert cut.lengths == {number: 1}
    assert await db.read(lambda c: list(read_texts(c, cut))) == [("before\n", None)]


async def test_what_was_written_before_a_checkpoint_is_no_later_calls(db: Database) -> None:
    await live(db)
    begun = msgspec.msgpack.encode(Checkpointed((), Usage(0, 0, 0), len("one\ntwo\n")))
    first = msgspec.structs.replace(row(0), name="checkpoint", state="DONE", result=begun)
    await db.write(lambda c: begin_anew(c, first))
    await do(db, 1, "print", write(1, "anew\n"))

    cut = await cut_at(db, 1)

    texts = await db.read(lambda c: [text for text, _ in read_texts(c, cut)])
    assert texts == ["one\n", "two\n"]


async def test_an_append_of_an_older_version_cannot_be_undone(db: Database) -> None:
    await do(db, 0, "context_create", create("a"))
    await do(db, 1, "context_append", lambda c: ContextLength(contexts.append(c, 1, 1, ())))

    with pytest.raises(E_ARG, match="step 0:1 of process 1 is of an older llmos"):
        await cut_at(db, 1)
    assert (await cut_at(db, 2)).lengths == {1: 1}


async def test_a_damaged_row_before_or_behind_the_cut_is_named(db: Database) -> None:
    await live(db)
    await db.write(lambda c: c.exec_driver_sql("UPDATE journal SET name = 'x' WHERE seq = 5"))

    with pytest.raises(E_STORAGE, match="call 1/0/5 is damaged"):
        await cut_at(db, 2)
