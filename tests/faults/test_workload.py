"""The steps of the recorded store, and the checks of what is left of it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llmos.memory.db import Database
from llmos.syscalls.errors import E_STORAGE

from .workload import make_steps, require_readable, require_sound, take_reference, take_snapshot

pytestmark = pytest.mark.anyio
NUM_STEPS = 40


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database.open(tmp_path / "memory.db")
    yield database
    await database.aclose()


async def take_steps(db: Database, seed: int) -> None:
    for step in make_steps(seed, NUM_STEPS):
        await db.write(step)


async def test_the_same_seed_makes_the_same_store(db: Database, tmp_path: Path) -> None:
    await take_steps(db, seed=3)

    reference = await take_reference(tmp_path / "other.db", 3, NUM_STEPS)

    assert await db.write(take_snapshot) == (NUM_STEPS, reference[-1])
    assert len(set(reference)) == NUM_STEPS + 1, "every step leaves something"


async def look(db: Database) -> None:
    await db.write(require_sound)
    await require_readable(db)


@pytest.mark.parametrize("seed", range(5))
async def test_a_store_after_any_steps_is_sound(db: Database, seed: int) -> None:
    await take_steps(db, seed)

    await look(db)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE journal SET result = x'00' WHERE id = 1",
        "DELETE FROM journal WHERE id IN (SELECT min(id) FROM journal GROUP BY pid)",
        "UPDATE item SET body = 'other' WHERE deleted_at IS NULL",
        "UPDATE message SET body = x'80'",
        "INSERT INTO item_fts(item_fts) VALUES ('delete-all')",
    ],
)
async def test_damage_is_found(db: Database, damage: str) -> None:
    await take_steps(db, seed=1)
    await db.write(lambda connection: connection.exec_driver_sql(damage).rowcount)

    with pytest.raises(E_STORAGE):
        await look(db)
