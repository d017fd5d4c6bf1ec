"""Recordings: when tokens are queued, what is output with them, and what is exact."""

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from llmos.kernel.chunks import CHUNK_SECONDS, CHUNK_TOKENS, NOTHING, Chunks, Recording
from llmos.kernel.clock import VirtualClock
from llmos.kernel.drivers.driver import Emitted, TextDelta
from llmos.memory.chunks import Begun, Branch, Chunk, find_begun
from llmos.memory.db import Database
from llmos.memory.journal import read_output
from llmos.syscalls.errors import E_MODEL
from llmos.syscalls.tasks import running
from llmos.syscalls.types import TokenLogprobs, TokenScore

pytestmark = pytest.mark.anyio
PROMPT = b"prompt"
BEGUN = Begun(
    (
        Chunk(0, (1, 2), "one two", 7, ("a-1",), PROMPT, 50),
        Chunk(2, (3,), " three", 13, ("a-1",), PROMPT, 50),
    ),
    13,
)


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    db = Database.open(tmp_path / "store.db")
    yield db
    await db.aclose()


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def chunks(db: Database, clock: VirtualClock) -> AsyncIterator[Chunks]:
    chunks = Chunks(db, clock)
    async with running() as tasks:
        tasks.start_soon(chunks.run)
        yield chunks


def make(number: int = 0, *, begun: Begun = NOTHING, is_shown: bool = False) -> Recording:
    branch = Branch(1, "0", 0, number)
    return Recording(branch, prompt=PROMPT, max_tokens=50, begun=begun, is_shown=is_shown)


def delta(token: int, text: str = "x ", fingerprint: str = "a-1") -> TextDelta:
    return TextDelta(text, 0, (token,), fingerprint)


def say(chunks: Chunks, recording: Recording, num_tokens: int) -> None:
    for token in range(num_tokens):
        recording.add(delta(token))
        chunks.note(recording)


async def count_kept(db: Database) -> list[int]:
    """How many tokens are durable, by branch."""
    await db.flush()
    found = await find_begun(db, 1, "0", 0)
    return [begun.num_tokens for _, begun in sorted(found.items())]


async def test_so_many_tokens_are_queued_at_once(db: Database, chunks: Chunks) -> None:
    recording = make()

    say(chunks, recording, CHUNK_TOKENS - 1)
    before = await count_kept(db)
    say(chunks, recording, 1)

    assert (before, await count_kept(db)) == ([], [CHUNK_TOKENS])


async def test_fewer_are_queued_when_they_have_waited(
    db: Database, chunks: Chunks, clock: VirtualClock
) -> None:
    for _ in range(2):
        say(chunks, make(), 3)
        await anyio.wait_all_tasks_blocked()
        clock.advance(CHUNK_SECONDS * 0.9)
        await anyio.wait_all_tasks_blocked()
        before = await count_kept(db)
        clock.advance(CHUNK_SECONDS * 0.2)
        await anyio.wait_all_tasks_blocked()

        assert (before, await count_kept(db)) in (([], [3]), ([3], [3]))


async def test_one_generation_takes_the_others_along(db: Database, chunks: Chunks) -> None:
    first, second = make(0), make(1)

    say(chunks, first, 5)
    say(chunks, second, CHUNK_TOKENS)

    assert await count_kept(db) == [5, CHUNK_TOKENS]


async def test_what_was_cut_off_is_queued_and_what_has_ended_is_not(
    db: Database, chunks: Chunks
) -> None:
    cut, ended = make(0), make(1)

    def be_cut_off() -> None:
        with chunks.kept([cut]):
            say(chunks, cut, 3)
            raise E_MODEL("died")

    with pytest.raises(E_MODEL):
        be_cut_off()
    with chunks.kept([ended]):
        say(chunks, ended, 3)
    chunks.flush()

    assert await count_kept(db) == [3]
    assert ended.num_fresh_tokens == 3


async def test_text_that_is_shown_is_output_with_its_tokens(db: Database, chunks: Chunks) -> None:
    recording = make(is_shown=True)

    say(chunks, recording, CHUNK_TOKENS + 1)

    await db.flush()
    assert await read_output(db, 1) == "x " * CHUNK_TOKENS
    assert recording.num_kept_chars == 2 * CHUNK_TOKENS
    assert recording.text == "x " * (CHUNK_TOKENS + 1)


async def test_what_is_committed_is_durable(db: Database, chunks: Chunks) -> None:
    recording = make(is_shown=True)
    recording.add(delta(1, "one"))
    recording.add(delta(2, " two"))

    text = await chunks.commit(recording)

    assert text == "one two"
    assert await read_output(db, 1) == "one two"


async def test_a_recording_is_waited_for_until_it_is_over(chunks: Chunks) -> None:
    recording, heard = make(), list[str]()

    async def hear() -> None:
        while await recording.wait_fresh():
            heard.append(recording.take()[0].text)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hear)
        for text in ("one", "two"):
            recording.add(delta(1, text))
            await anyio.wait_all_tasks_blocked()
        recording.add(delta(1, "last"))
        recording.end()

    assert heard == ["one", "two", "last"]


async def test_it_goes_on_after_what_was_begun() -> None:
    recording = make(begun=BEGUN)

    recording.add(delta(4, " four"))
    chunk, _ = recording.take()

    assert recording.find_emitted() == Emitted((1, 2, 3), "one two three", "a-1")
    assert (chunk.first_token, chunk.tokens, chunk.num_chars) == (3, (4,), 18)
    assert (recording.text, recording.num_tokens) == ("one two three four", 4)


async def test_log_probabilities_go_along() -> None:
    one = TokenLogprobs(TokenScore(1, "x", -0.5))
    first, second = make(), make()
    first.add(TextDelta("x", 1, (1,), "a-1", (one,)))

    chunk, _ = first.take()
    emitted = make(begun=Begun((chunk, chunk))).find_emitted()

    assert chunk.logprobs == (one,)
    assert emitted is not None
    assert emitted.logprobs == (one, one)
    assert second.find_emitted() is None


async def test_output_that_outlived_its_chunk_is_not_output_again() -> None:
    damaged = Begun(BEGUN.chunks[:1], 13, 1)
    recording = make(begun=damaged, is_shown=True)

    recording.add(delta(3, " three"))
    chunk, shown = recording.take()
    recording.add(delta(4, " four"))
    _, rest = recording.take()

    assert (shown, rest) == ("", " four")
    assert chunk.num_chars == 13
    assert recording.num_kept_chars == 18


def remember(fingerprints: tuple[str, ...], prompt: bytes = PROMPT) -> Begun:
    return Begun((Chunk(0, (1,), "one", 3, fingerprints, prompt, 50),), 3)


@pytest.mark.parametrize(
    ("begun", "fingerprint", "is_exact"),
    [
        (NOTHING, "a-1", True),
        (NOTHING, "", True),
        (remember(("a-1",)), "a-1", True),
        (remember(("a-1",)), "a-2", False),
        (remember(("a-1", "a-2")), "a-2", False),
        (remember(("a-1",), b"other"), "a-1", False),
        (remember(("",)), "", False),
    ],
)
async def test_it_is_exact_if_one_engine_went_on_with_one_prompt(
    begun: Begun, fingerprint: str, is_exact: bool
) -> None:
    recording = make(begun=begun)

    recording.add(delta(2, fingerprint=fingerprint))

    assert recording.is_exact == is_exact


async def test_an_engine_that_had_nothing_to_add_changes_nothing() -> None:
    recording = make(begun=remember(("a-1",)))

    recording.add(TextDelta("", 1, (), "a-2"))

    assert recording.is_exact


async def test_two_engines_within_one_chunk_are_both_remembered() -> None:
    recording = make()
    recording.add(delta(1, fingerprint="a-1"))
    recording.add(delta(2, fingerprint="a-2"))

    chunk, _ = recording.take()

    assert chunk.fingerprints == ("a-1", "a-2")
    assert not recording.is_exact


async def test_what_is_damaged_is_told_in_the_log_and_made_room_for(
    db: Database, chunks: Chunks, caplog: pytest.LogCaptureFixture
) -> None:
    recording = make()
    for _ in range(2):
        say(chunks, recording, CHUNK_TOKENS)
    sql = f"UPDATE chunk SET body = x'00' WHERE first_token = {CHUNK_TOKENS}"
    await db.write(lambda connection: connection.exec_driver_sql(sql).rowcount)

    found = await chunks.find(1, "0", 0)

    assert found[0].num_tokens == CHUNK_TOKENS
    assert "1 chunks of generation 1/0/0 are damaged; made again from token 32 on" in caplog.text
    await db.flush()
    assert (await find_begun(db, 1, "0", 0))[0].num_dropped == 0
