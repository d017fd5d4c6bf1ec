"""Recall: what is found, in which order, for whom, and that no text can break it."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmos.memory import store
from llmos.memory.db import Database
from llmos.memory.manager import MemoryManager
from llmos.memory.store import Item
from llmos.syscalls.errors import E_ARG, E_STORAGE
from llmos.syscalls.memory import Note

pytestmark = pytest.mark.anyio

NAUGHTY = Path(__file__).parents[2] / "../shared/data/security/blns/blns.json"
MAY_2023 = 1_683_554_160.0
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
fts_text = st.text(st.sampled_from("ab \"'()*^:-+%_,.{}\0\u202e"), max_size=40)


async def remember(
    db: Database,
    text: str,
    *,
    space: str = "chat",
    tenant: str = "t",
    role: str = "user",
    at: float = 1.0,
) -> str:
    memory = MemoryManager(db)
    return await db.write(
        lambda c: memory.remember(
            c, tenant, space, text, kind="turn", role=role, session=None, at=at
        )
    )


async def recall(db: Database, query: str, *spaces: str, limit: int = 10) -> list[Note]:
    return await MemoryManager(db).recall("t", spaces or ("chat",), query, limit)


async def texts(db: Database, query: str, *spaces: str) -> list[str]:
    return [note.text for note in await recall(db, query, *spaces)]


async def test_a_note_comes_back_with_all_that_is_known_of_it(db: Database) -> None:
    uid = await remember(db, "My cat is called Miso.", role="alice", at=2.5)

    (note,) = await recall(db, "what is my cat called?")

    assert note.score > 0
    assert note == Note(uid, "My cat is called Miso.", note.score, "turn", "chat", "alice", 2.5)


async def test_words_are_matched_by_their_stem(db: Database) -> None:
    await remember(db, "She paints sunrises")

    assert await texts(db, "painting a sunrise") == ["She paints sunrises"]


async def test_more_and_rarer_words_in_common_come_first(db: Database) -> None:
    for text in ("the cat sat", "the cat is called Miso", "a dog sat", "the dog ran"):
        await remember(db, text)

    assert (await texts(db, "what is the cat called"))[0] == "the cat is called Miso"


async def test_a_speaker_and_a_date_find_a_turn(db: Database) -> None:
    await remember(db, "I went hiking", role="Caroline", at=MAY_2023)
    await remember(db, "I went hiking as well", role="Melanie", at=0.0)

    assert await texts(db, "Caroline") == ["I went hiking"]
    assert (await texts(db, "hiking, 8 May 2023"))[0] == "I went hiking"


async def test_nothing_in_common_or_only_stop_words_finds_nothing(db: Database) -> None:
    await remember(db, "what is it that you do")

    assert await texts(db, "submarine") == []
    assert await texts(db, "what is it that you do") == []


async def test_only_the_named_spaces_of_the_tenant_are_searched(db: Database) -> None:
    await remember(db, "cat in chat")
    await remember(db, "cat in shared", space="shared")
    await remember(db, "cat of another", tenant="u")

    assert await texts(db, "cat") == ["cat in chat"]
    assert sorted(await texts(db, "cat", "chat", "shared")) == ["cat in chat", "cat in shared"]
    assert await texts(db, "cat", "unknown") == []
    assert await MemoryManager(db).recall("t", (), "cat", 5) == []


async def test_equal_texts_come_once_and_the_limit_holds(db: Database) -> None:
    for text in ("cat", "cat", "cat two", "cat three"):
        await remember(db, text)

    assert len(await recall(db, "cat", limit=2)) == 2
    assert sorted(await texts(db, "cat")) == ["cat", "cat three", "cat two"]


@pytest.mark.parametrize("limit", [0, -1, 1001])
async def test_a_limit_out_of_bounds_is_named(db: Database, limit: int) -> None:
    with pytest.raises(E_ARG) as caught:
        await recall(db, "cat", limit=limit)

    assert caught.value.field == "limit"


async def test_a_damaged_note_is_named_and_not_served(db: Database) -> None:
    uid = await remember(db, "the cat is called Miso")
    await db.write(lambda c: c.exec_driver_sql("UPDATE item SET body = 'the cat is dead'").rowcount)

    with pytest.raises(E_STORAGE, match=uid):
        await recall(db, "cat")


async def test_a_query_of_a_million_characters_is_answered(db: Database) -> None:
    await remember(db, "zebra")

    assert await texts(db, "zebra " + "y" * 1_000_000) == ["zebra"]
    assert await texts(db, " ".join(str(number) for number in range(3000, 150_000))) == []


def naughty_strings() -> list[str]:
    if not NAUGHTY.exists():
        pytest.skip("the list of naughty strings is not here")
    return [text for text in json.loads(NAUGHTY.read_text()) if text]


async def test_naughty_strings_come_back_and_break_nothing(db: Database) -> None:
    strings = [f"{text} needle{number}" for number, text in enumerate(naughty_strings())]
    items = [Item("t", "chat", text, recorded_at=1.0) for text in strings]
    uids = await db.write(lambda c: [store.remember(c, item) for item in items])

    for number, text in enumerate(strings):
        found = await recall(db, f"needle{number}", limit=1)
        assert [(note.uid, note.text) for note in found] == [(uids[number], text)]
        assert text in await texts(db, text)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(any_text | fts_text, any_text | fts_text, st.sampled_from(["chat", "a'b", '"', "%", "\0"]))
async def test_any_text_comes_back_exactly_whatever_is_asked(
    db: Database, text: str, query: str, space: str
) -> None:
    uid = await remember(db, f"needle {text}", space=space)

    notes = await recall(db, f"needle {query}", space, limit=1000)
    await db.write(lambda c: MemoryManager(db).forget(c, "t", space, uid))

    assert f"needle {text}" in [note.text for note in notes]
    assert uid not in [note.uid for note in await recall(db, "needle", space, limit=1000)]
