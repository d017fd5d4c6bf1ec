"""What is remembered, forgotten and superseded, and the text index beside it."""

import msgspec
import pytest

from llmos.memory import store
from llmos.memory.db import Connection, Database
from llmos.memory.recall import recall
from llmos.memory.store import Item
from llmos.syscalls.errors import E_ARG

pytestmark = pytest.mark.anyio


def turn(text: str, session: str = "s", at: float = 1.0, space: str = "chat") -> Item:
    return Item("t", space, text, recorded_at=at, kind="turn", role="user", session=session)


async def add(db: Database, *items: Item) -> list[str]:
    return await db.write(lambda c: [store.remember(c, item) for item in items])


async def forget(db: Database, uid: str, space: str = "chat", tenant: str = "t") -> bool:
    return await db.write(lambda c: store.forget(c, tenant, space, uid))


async def found(db: Database, query: str, now: float = 5.0) -> list[str]:
    return [note.text for note in await recall(db, "t", ["chat"], query, 10, now)]


async def neighbours(db: Database) -> list[str]:
    def query(connection: Connection) -> list[str]:
        rows = connection.exec_driver_sql("SELECT ctx FROM item ORDER BY id").scalars()
        return [str(ctx).replace("\n", " ") for ctx in rows]

    return await db.read(query)


async def check_index(db: Database) -> None:
    """Raise unless the text index is what the items say."""
    check = "INSERT INTO item_fts(item_fts, rank) VALUES ('integrity-check', 1)"
    await db.write(lambda connection: connection.exec_driver_sql(check).rowcount)


async def test_a_short_turn_is_indexed_with_two_turns_on_each_side(db: Database) -> None:
    await add(db, *[turn(word) for word in ("one", "two", "three", "four", "five")])

    assert await neighbours(db) == [
        "two three",
        "one three four",
        "one two four five",
        "two three five",
        "three four",
    ]
    await check_index(db)


async def test_sessions_and_spaces_have_no_neighbours_of_others(db: Database) -> None:
    await add(db, turn("one"), turn("two", session="other"), turn("three", space="shared"))

    assert await neighbours(db) == ["", "", ""]


async def test_long_turns_and_notes_stand_alone(db: Database) -> None:
    long = turn("word " * 60)
    note = Item("t", "chat", "note", recorded_at=1.0, session="s")
    await add(db, turn("one"), long, note)

    assert await neighbours(db) == [f"{long.text} note", "", ""]


async def test_a_forgotten_turn_is_found_nowhere(db: Database) -> None:
    uids = await add(db, *[turn(word) for word in ("one", "two", "secret", "four", "five")])

    assert await forget(db, uids[2])

    assert await found(db, "secret") == []
    assert await neighbours(db) == ["two four", "one four five", "", "one two five", "two four"]
    await check_index(db)


async def test_forgetting_needs_the_right_space_and_tenant_and_happens_once(db: Database) -> None:
    (uid,) = await add(db, turn("one"))

    assert not await forget(db, uid, space="shared")
    assert not await forget(db, uid, tenant="u")
    assert await forget(db, uid)
    assert not await forget(db, uid)


async def test_the_text_of_a_forgotten_item_leaves_the_table(db: Database) -> None:
    (uid,) = await add(db, turn("one"))
    await forget(db, uid)

    row = await db.read(lambda c: c.exec_driver_sql("SELECT head || body || ctx FROM item").all())

    assert row[0][0] == ""


async def test_the_latest_fact_replaces_the_one_before(db: Database) -> None:
    (old,) = await add(db, turn("the cat is called Miso"))
    new = Item("t", "chat", "the cat is called Nori", recorded_at=2.0, supersedes=old)
    await add(db, new)

    assert await found(db, "cat") == ["the cat is called Nori"]
    await check_index(db)


async def test_an_expired_item_is_not_found(db: Database) -> None:
    await add(db, Item("t", "chat", "meeting today", recorded_at=1.0, valid_to=10.0))

    assert await found(db, "meeting", now=9.0) == ["meeting today"]
    assert await found(db, "meeting", now=10.0) == []


async def test_sources_are_kept_and_must_exist(db: Database) -> None:
    sources = tuple(await add(db, turn("a"), turn("b")))
    await add(db, Item("t", "chat", "sum", recorded_at=1.0, kind="summary", sources=sources))

    with pytest.raises(E_ARG) as caught:
        await add(db, Item("t", "chat", "sum", recorded_at=1.0, sources=("no",)))

    assert caught.value.field == "sources"
    kept = await db.read(lambda c: c.exec_driver_sql("SELECT * FROM item_source").all())
    assert [tuple(row) for row in kept] == [(3, 1), (3, 2)]


async def test_what_an_item_supersedes_must_be_of_its_space(db: Database) -> None:
    (uid,) = await add(db, turn("one", space="shared"))

    with pytest.raises(E_ARG) as caught:
        await add(db, Item("t", "chat", "new", recorded_at=1.0, supersedes=uid))

    assert caught.value.field == "supersedes"
    assert await found(db, "new") == []


@pytest.mark.parametrize("field", ["text", "space", "role", "session"])
async def test_half_of_a_surrogate_pair_is_refused_by_field(db: Database, field: str) -> None:
    item = msgspec.structs.replace(turn("x"), **{field: "\ud800"})

    with pytest.raises(E_ARG) as caught:
        await add(db, item)

    assert caught.value.field == field


def test_uids_sort_by_time_and_are_ulids() -> None:
    uids = [store.make_uid(at) for at in (0.0, 1.0, 1_700_000_000.5)]

    assert uids == sorted(uids)
    assert all(len(uid) == 26 and set(uid) <= set(store.CROCKFORD) for uid in uids)
    assert store.make_uid(1.0) != store.make_uid(1.0)
    assert store.make_uid(1_469_918_176.385).startswith("01ARYZ6S41")
