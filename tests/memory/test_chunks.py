"""Token chunks: what comes back of a branch, and what damage costs."""

from functools import partial

import pytest

from llmos.memory.chunks import (
    Begun,
    Branch,
    Chunk,
    cut_chunks,
    delete_all_chunks,
    delete_chunks,
    find_begun,
    put_chunk,
)
from llmos.memory.db import Database
from llmos.syscalls.types import TokenLogprobs, TokenScore

pytestmark = pytest.mark.anyio
BRANCH = Branch(1, "0.1", 2, 0)


def make_chunk(first_token: int, *tokens: int, num_chars: int = 0) -> Chunk:
    logprobs = tuple(TokenLogprobs(TokenScore(one, "x", -0.5)) for one in tokens)
    return Chunk(first_token, tokens, "wörd \0", num_chars, ("a-1",), b"p", 64, logprobs)


THREE = [make_chunk(0, 7, 8, num_chars=6), make_chunk(2, 9, num_chars=12), make_chunk(3, 1, 2)]


async def put(db: Database, branch: Branch, *chunks: Chunk) -> None:
    for chunk in chunks:
        await db.write(partial(put_chunk, branch=branch, chunk=chunk))


async def find(db: Database, branch: Branch = BRANCH) -> Begun:
    found = await find_begun(db, branch.pid, branch.strand, branch.seq)
    return found.get(branch.number, Begun())


async def change(db: Database, assignment: str, first_token: int) -> None:
    sql = f"UPDATE chunk SET {assignment} WHERE first_token = {first_token}"
    await db.write(lambda connection: connection.exec_driver_sql(sql).rowcount)


async def test_chunks_come_back_in_order_and_as_they_were(db: Database) -> None:
    await put(db, BRANCH, THREE[2], THREE[0], THREE[1])

    assert await find(db) == Begun(tuple(THREE), 12, 0)
    assert (await find(db)).num_tokens == 5


async def test_branches_and_calls_are_kept_apart(db: Database) -> None:
    others = [BRANCH._replace(pid=5), BRANCH._replace(seq=5), BRANCH._replace(number=5)]
    for branch in [BRANCH, *others]:
        await put(db, branch, make_chunk(0, branch.pid, branch.seq, branch.number))

    assert set(await find_begun(db, 1, "0.1", 2)) == {0, 5}
    assert [(await find(db, one)).chunks[0].tokens for one in others] == [
        (5, 2, 0),
        (1, 5, 0),
        (1, 2, 5),
    ]


@pytest.mark.parametrize(
    "damage",
    ["body = x'00'", "checksum = x'00'", "first_token = 20", "body = 'text'", "checksum = 1"],
)
async def test_from_a_damaged_chunk_on_all_is_dropped(db: Database, damage: str) -> None:
    await put(db, BRANCH, *THREE)

    await change(db, damage, 2)

    begun = await find(db)
    assert begun.chunks == (THREE[0],)
    assert begun.num_dropped > 0


async def test_a_missing_chunk_is_a_gap(db: Database) -> None:
    await put(db, BRANCH, THREE[0], THREE[2])

    assert await find(db) == Begun((THREE[0],), 6, 1)


async def test_what_was_output_is_known_by_a_sound_chunk_behind_the_damage(db: Database) -> None:
    await put(db, BRANCH, *THREE)

    await change(db, "body = x'00'", 0)

    assert await find(db) == Begun((), 12, 3)


async def test_a_chunk_of_another_place_is_not_believed(db: Database) -> None:
    await put(db, BRANCH, THREE[0])

    await change(db, "branch = 1", 0)

    assert (await find(db, BRANCH._replace(number=1))).chunks == ()


async def test_a_branch_is_cut_and_goes_on_differently(db: Database) -> None:
    await put(db, BRANCH, *THREE)
    other = BRANCH._replace(number=1)
    await put(db, other, *THREE)

    await db.write(partial(cut_chunks, branch=BRANCH, num_tokens=2))
    await put(db, BRANCH, make_chunk(2, 4, 4, 4))

    assert [chunk.tokens for chunk in (await find(db)).chunks] == [(7, 8), (4, 4, 4)]
    assert (await find(db, other)).num_tokens == 5


async def test_a_chunk_that_is_put_again_replaces_itself(db: Database) -> None:
    await put(db, BRANCH, THREE[0], make_chunk(0, 3))

    assert [chunk.tokens for chunk in (await find(db)).chunks] == [(3,)]


async def test_chunks_go_with_their_call_or_with_their_process(db: Database) -> None:
    same, other = BRANCH._replace(seq=3), BRANCH._replace(pid=2)
    for branch in (BRANCH, BRANCH._replace(number=1), same, other):
        await put(db, branch, *THREE)

    await db.write(partial(delete_chunks, pid=1, strand="0.1", seq=2))

    assert await find_begun(db, 1, "0.1", 2) == {}
    assert (await find(db, same)).num_tokens == 5
    await db.write(partial(delete_all_chunks, pid=1))
    assert await find_begun(db, 1, "0.1", 3) == {}
    assert (await find(db, other)).num_tokens == 5
