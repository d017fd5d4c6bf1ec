"""The engine over three tiers: what it says never depends on where a page was."""

import logging
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, Qwen3Config

from llmos.kernel.executor.engine import Engine
from llmos.kernel.executor.pagefile import find_page_files, find_path
from llmos.kernel.executor.protocol import Done, Failed, Generate, Hint, Load
from llmos.syscalls.types import Message, Sampling, Usage

from .conftest import SHAPE, make_tokenizer, run

Tokens = tuple[int, ...]
PROMPTS = [f"{name}, tell me a story about the fox and the {name}. " * 4 for name in ("Ada", "Bob")]
PROMPTS += [f"What does {name} say to the fox? " * 6 for name in ("Cy", "Dora", "Eve")]


def ask(number: int, prompt: str, *, num_new: int = 12, owner: int = 0) -> Generate:
    sampling = Sampling(max_tokens=num_new, temperature=0.0)
    return Generate(number, (Message("user", prompt),), sampling=sampling, owner=owner)


def drain(engine: Engine) -> dict[int, Done]:
    return {one.id: one for one in run(engine) if isinstance(one, Done)}


def answer(engine: Engine, *prompts: str) -> list[Tokens]:
    """The answers to prompts that are given one after another."""
    answers = []
    for number, prompt in enumerate(prompts):
        engine.submit(ask(number, prompt))
        answers.append(drain(engine)[number].tokens)
    return answers


def keep_on_disk(engine: Engine, prompt: str) -> None:
    """Answer a prompt of somebody who then waits for so long that its pages go to the disk."""
    engine.submit(ask(1, prompt, owner=5))
    drain(engine)
    engine.hint(Hint(5, "person"))
    while engine.rest():
        pass
    settle(engine)


def settle(engine: Engine) -> None:
    """Let the disk's thread do all it has to."""
    assert engine._swap.disk is not None
    assert engine._swap.disk.drain()
    engine._swap.collect()


@pytest.fixture
def expected(qwen3: Path) -> list[Tokens]:
    """The answers of an engine that never gives up a page."""
    return answer(Engine(Load(str(qwen3)), num_pages=256), *PROMPTS)


@pytest.fixture
def start(qwen3: Path, tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """Engines on one folder of pages, with room for a conversation and a half on the device."""
    engines: list[Engine] = []

    def make(num_pages: int = 20, num_host_pages: int = 0, max_pages: int = 1000) -> Engine:
        max_bytes = max_pages * (16 * 4 * 2 * 2 * 24 * 4 + 56)
        spec = Load(str(qwen3), page_folder=str(tmp_path), max_page_folder_bytes=max_bytes)
        engines.append(Engine(spec, num_pages=num_pages, num_host_pages=num_host_pages))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@pytest.mark.parametrize("num_host_pages", [0, 8, 100])
def test_answers_are_the_same_with_pages_from_every_tier(
    start: Callable[..., Engine], expected: list[Tokens], num_host_pages: int
) -> None:
    engine = start(num_host_pages=num_host_pages)

    rounds = []
    for _ in range(3):
        rounds.append(answer(engine, *PROMPTS))
        settle(engine)

    stats = engine.collect_stats()
    assert rounds == [expected] * 3
    below = {"host"} if num_host_pages == 100 else {"disk"}
    assert below <= {tier for tier, count in stats.num_page_hits.items() if count}
    assert stats.num_bytes_moved["to_device"] > 10 * stats.page_bytes


def test_what_was_computed_before_a_restart_is_read_after_it(
    start: Callable[..., Engine], expected: list[Tokens]
) -> None:
    first = start(num_pages=100)
    keep_on_disk(first, PROMPTS[0])
    first.close()

    second = start(num_pages=100)

    assert answer(second, PROMPTS[0]) == expected[:1]
    stats = second.collect_stats()
    assert stats.num_page_hits["disk"] == stats.num_cached_tokens // 16 > 5


def test_others_go_on_while_pages_are_read(
    start: Callable[..., Engine], expected: list[Tokens]
) -> None:
    engine = start(num_pages=40)
    answer(engine, *PROMPTS)
    settle(engine)
    engine.submit(ask(10, PROMPTS[4], num_new=40))
    engine.step()

    engine.submit(ask(11, PROMPTS[0]))
    engine.step()
    was_loading = engine.collect_stats().num_loading
    done = drain(engine)

    assert was_loading == 1
    assert done[11].tokens == expected[0]
    assert done[11].usage.cached_tokens > 0


@pytest.mark.parametrize("action", ["cancel", "pause"])
def test_a_sequence_that_waits_for_its_pages_can_be_stopped(
    start: Callable[..., Engine], expected: list[Tokens], action: str
) -> None:
    engine = start(num_pages=40)
    answer(engine, *PROMPTS)
    settle(engine)
    engine.submit(ask(11, PROMPTS[0]))
    engine._scheduler.plan()
    assert engine.collect_stats().num_loading == 1

    getattr(engine, action)(11)
    drain(engine)
    engine.resume(11)

    assert [one.tokens for one in drain(engine).values()] == expected[: action == "pause"]


def damage(path: Path) -> None:
    """Have a page hold zeros."""
    content = path.read_bytes()
    path.write_bytes(content[:56] + bytes(len(content) - 56))


def forge(path: Path) -> None:
    """The same, with the checksum of zeros."""
    damage(path)
    content = bytearray(path.read_bytes())
    content[12:16] = zlib.crc32(content[56:]).to_bytes(4, "little")
    path.write_bytes(content)


@pytest.mark.parametrize(("spoil", "is_equal"), [(damage, True), (forge, False)])
def test_a_damaged_page_is_computed_again_and_an_accepted_one_is_seen_in_the_answer(
    start: Callable[..., Engine],
    expected: list[Tokens],
    tmp_path: Path,
    spoil: Callable[[Path], None],
    is_equal: bool,
) -> None:
    """The second is the control: without its checksum a page could say anything."""
    engine = start(num_pages=100)
    keep_on_disk(engine, PROMPTS[0])

    for name, _ in find_page_files(tmp_path):
        spoil(find_path(tmp_path, name))

    assert (answer(start(), PROMPTS[0]) == expected[:1]) is is_equal


def test_a_tiny_disk_tier_is_kept_within_its_bound(
    start: Callable[..., Engine], expected: list[Tokens], tmp_path: Path
) -> None:
    engine = start(max_pages=3)

    assert answer(engine, *PROMPTS, *PROMPTS) == expected * 2
    settle(engine)
    settle(engine)

    assert engine.collect_stats().num_pages_on_disk == len(find_page_files(tmp_path)) == 3


def test_a_folder_that_cannot_be_made_is_done_without(
    qwen3: Path, expected: list[Tokens], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()

    with caplog.at_level(logging.WARNING):
        engine = Engine(Load(str(qwen3), page_folder=str(tmp_path / "file")), num_pages=20)

    assert answer(engine, *PROMPTS) == expected
    assert len(caplog.records) == 1


def test_a_prompt_larger_than_all_pages_is_refused_with_both_numbers(qwen3: Path) -> None:
    engine = Engine(Load(str(qwen3)), num_pages=3)

    engine.submit(ask(1, PROMPTS[0]))

    (failed,) = engine.step()
    assert isinstance(failed, Failed)
    assert failed.error.code == "E_CONTEXT"
    assert "48" in failed.error.message
    assert not engine.has_work


@pytest.fixture(scope="module")
def long_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 with a window of 4,096 tokens."""
    folder = tmp_path_factory.mktemp("long")
    config = Qwen3Config(**SHAPE | {"max_position_embeddings": 4096})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def test_eight_forks_of_two_thousand_tokens_share_all_pages_but_their_last(
    long_model: Path,
) -> None:
    engine = Engine(Load(str(long_model)), num_pages=180)
    context = "Once upon a time there was a fox. " * 76
    engine.submit(ask(0, context, num_new=1))
    drain(engine)

    for seed in range(1, 9):
        branch = Sampling(max_tokens=8, temperature=1.0, seed=seed)
        engine.submit(Generate(seed, (Message("user", context),), sampling=branch))
    usages: list[Usage] = []
    own_pages = 0
    while engine.has_work:
        usages += [one.usage for one in engine.step() if isinstance(one, Done)]
        tables = [set(one.pages) for one in engine._scheduler.running]
        shared = set.intersection(*tables) if len(tables) > 1 else set()
        own_pages = max([own_pages, *(len(table - shared) for table in tables if shared)])

    assert all(one.prompt_tokens > 2000 for one in usages)
    assert all(one.prompt_tokens - one.cached_tokens <= 16 for one in usages)
    assert 1 <= own_pages <= 2
