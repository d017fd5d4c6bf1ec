"""Mailboxes: in order, once each, and bounded."""

import pytest

from llmos.memory import mail
from llmos.memory.db import Database
from llmos.memory.mail import MAX_MAIL, Letter

pytestmark = pytest.mark.anyio


async def post(db: Database, pid: int, text: str) -> int:
    letter = await db.write(lambda connection: mail.post(connection, pid, 9, 1.5, text))
    assert letter is not None
    return letter


async def test_the_oldest_message_comes_first_until_it_is_taken(db: Database) -> None:
    first, second = await post(db, 1, "one"), await post(db, 1, "two")

    assert await mail.find_oldest(db, 1) == Letter(first, 9, 1.5, "one")
    await db.write(lambda connection: mail.take(connection, first))

    assert await mail.find_oldest(db, 1) == Letter(second, 9, 1.5, "two")


async def test_a_box_is_one_processs_own(db: Database) -> None:
    await post(db, 1, "one")

    assert await mail.find_oldest(db, 2) is None


async def test_messages_can_be_passed_over(db: Database) -> None:
    first, second = await post(db, 1, "one"), await post(db, 1, "two")

    found = await mail.find_oldest(db, 1, (first,))

    assert found is not None
    assert found.id == second
    assert await mail.find_oldest(db, 1, (first, second)) is None


async def test_a_number_is_never_used_twice(db: Database) -> None:
    first = await post(db, 1, "one")
    await db.write(lambda connection: mail.take(connection, first))

    assert await post(db, 1, "two") > first


async def test_a_full_box_takes_no_more(db: Database) -> None:
    letters = await db.write(lambda c: [mail.post(c, 1, 9, 1.5, "x") for _ in range(MAX_MAIL + 1)])

    assert [letter is None for letter in letters] == [False] * MAX_MAIL + [True]
    await db.write(lambda connection: mail.empty_box(connection, 1))
    assert await post(db, 1, "again")
