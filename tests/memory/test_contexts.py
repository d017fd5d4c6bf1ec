"""Contexts: messages kept one by one, for one process."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmos.memory import contexts
from llmos.memory.db import Database
from llmos.syscalls.errors import E_ARG, E_STORAGE
from llmos.syscalls.types import Message, ToolCall

pytestmark = pytest.mark.anyio

SYSTEM = Message("system", "Be brief.")
QUESTION = Message("user", "nul \0, rtl \u202e\u05d0, %_'\"")
CALL = Message("assistant", "", tool_calls=(ToolCall("add", '{"a": 1}', "c1"),))
RESULT = Message("tool", "391", name="add", tool_call_id="c1")
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


async def make(db: Database, pid: int, *messages: Message) -> int:
    return await db.write(lambda connection: contexts.create(connection, pid, messages))


async def add(db: Database, pid: int, context_id: int, *messages: Message) -> int:
    return await db.write(lambda c: contexts.append(c, pid, context_id, messages))


async def read(db: Database, pid: int, context_id: int) -> tuple[Message, ...]:
    return await db.read(lambda connection: contexts.read(connection, pid, context_id))


async def test_messages_come_back_in_order_and_exactly(db: Database) -> None:
    context_id = await make(db, 1, SYSTEM)

    assert await add(db, 1, context_id, QUESTION, CALL) == 3
    assert await add(db, 1, context_id, RESULT) == 4

    assert await read(db, 1, context_id) == (SYSTEM, QUESTION, CALL, RESULT)


async def test_a_context_may_start_empty(db: Database) -> None:
    context_id = await make(db, 1)

    assert await read(db, 1, context_id) == ()
    assert await add(db, 1, context_id, QUESTION) == 1


async def test_contexts_are_numbered_within_their_process(db: Database) -> None:
    numbers = [await make(db, pid, SYSTEM) for pid in (1, 1, 2, 1, 2)]

    assert numbers == [1, 2, 1, 3, 2]


async def test_another_process_may_neither_read_nor_append(db: Database) -> None:
    number = await make(db, 1, SYSTEM)

    with pytest.raises(E_ARG, match="process 2 has no context 1"):
        await read(db, 2, number)
    with pytest.raises(E_ARG, match="process 2 has no context 1"):
        await add(db, 2, number, QUESTION)

    assert await read(db, 1, number) == (SYSTEM,)


async def test_the_first_messages_can_be_read_alone(db: Database) -> None:
    number = await make(db, 1, SYSTEM, QUESTION, CALL)

    assert await db.read(lambda c: contexts.read(c, 1, number, 2)) == (SYSTEM, QUESTION)
    assert await db.read(lambda c: contexts.count_messages(c, 1)) == {number: 3}


async def test_a_copy_has_the_same_numbers_and_goes_its_own_way(db: Database) -> None:
    number = await make(db, 1, SYSTEM, QUESTION, CALL)
    await db.write(lambda c: contexts.copy(c, 1, 2, {number: 2}))

    await add(db, 2, number, RESULT)

    assert await read(db, 2, number) == (SYSTEM, QUESTION, RESULT)
    assert await read(db, 1, number) == (SYSTEM, QUESTION, CALL)
    assert await make(db, 2) == 2


async def test_an_unknown_context_is_an_argument_error(db: Database) -> None:
    with pytest.raises(E_ARG) as caught:
        await read(db, 1, 99)

    assert caught.value.field == "context"


async def test_half_of_a_surrogate_pair_is_refused_and_nothing_kept(db: Database) -> None:
    context_id = await make(db, 1, SYSTEM)

    with pytest.raises(E_ARG) as caught:
        await add(db, 1, context_id, QUESTION, Message("user", "\ud800"))

    assert caught.value.field == "messages"
    assert await read(db, 1, context_id) == (SYSTEM,)


@pytest.mark.parametrize("change", ["body = x'80'", "pos = 7", "checksum = x''"])
async def test_a_damaged_message_is_named_and_not_served(db: Database, change: str) -> None:
    context_id = await make(db, 1, SYSTEM, QUESTION)
    await db.write(
        lambda c: c.exec_driver_sql(f"UPDATE message SET {change} WHERE pos = 1").rowcount
    )

    with pytest.raises(E_STORAGE, match="message 1 of context"):
        await read(db, 1, context_id)


async def test_a_message_that_was_moved_to_another_context_is_not_served(db: Database) -> None:
    first = await make(db, 1, SYSTEM, QUESTION)
    second = await make(db, 1, SYSTEM)
    move = f"UPDATE message SET context_id = {second} WHERE context_id = {first} AND pos = 1"
    await db.write(lambda c: c.exec_driver_sql(move).rowcount)

    with pytest.raises(E_STORAGE, match=f"message 1 of context {second} of process 1"):
        await read(db, 1, second)


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.builds(Message, st.sampled_from(["user", "assistant"]), texts), max_size=5))
async def test_any_text_comes_back(db: Database, messages: list[Message]) -> None:
    context_id = await make(db, 1, *messages)

    assert await read(db, 1, context_id) == tuple(messages)


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["DELETE FROM message WHERE pos = 1"], "has 1 messages and should have 2"),
        (["UPDATE context SET pid = 2"], "a context of process 1 is missing"),
        (["UPDATE context SET num_messages = 1"], "record of context 1 of process 1 is damaged"),
        (["DELETE FROM message", "DELETE FROM context"], "a context of process 1 is missing"),
    ],
)
async def test_a_context_of_which_something_is_missing_is_not_served(
    db: Database, statements: list[str], said: str
) -> None:
    context_id = await make(db, 1, SYSTEM, QUESTION)
    await db.write(lambda c: [c.exec_driver_sql(each).rowcount for each in statements])

    with pytest.raises(E_STORAGE, match=said):
        await read(db, 1, context_id)
