"""What the kernel's hints do to the pages of a process."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from llmos.kernel.executor.engine import Engine
from llmos.kernel.executor.hints import MAX_NAMES
from llmos.kernel.executor.protocol import Done, Generate, Hint, Load
from llmos.syscalls.types import Message, Sampling

from .conftest import run

FOX, CAT = "Tell me a story about a fox. " * 5, "What does the cat next door do? " * 5


def ask(number: int, text: str, owner: int, num_new: int = 4) -> Generate:
    sampling = Sampling(max_tokens=num_new, temperature=0.0)
    return Generate(number, (Message("user", text),), sampling=sampling, owner=owner)


def find_whole(engine: Engine, request: Generate) -> bool:
    """Run a generation; whether all full pages of its prompt were found."""
    (usage,) = [one.usage for one in run(engine, request) if isinstance(one, Done)]
    return usage.cached_tokens == (usage.prompt_tokens - 1) // 16 * 16


@pytest.fixture
def small(qwen3: Path) -> Iterator[Engine]:
    """Room for two conversations and a part of a third."""
    engine = Engine(Load(str(qwen3)), num_pages=20)
    yield engine
    engine.close()


def fill(engine: Engine) -> None:
    """A conversation of owner 1, then one of owner 2, which fill most of the pages."""
    find_whole(engine, ask(1, FOX, owner=1))
    find_whole(engine, ask(2, CAT, owner=2))


def press(engine: Engine) -> None:
    """Another conversation that needs some of the room."""
    find_whole(engine, ask(3, "Once upon a time there was " * 4, owner=3))


def test_without_a_hint_the_one_used_longest_ago_is_given_up(small: Engine) -> None:
    fill(small)
    press(small)

    assert find_whole(small, ask(5, CAT, owner=2))
    assert not find_whole(small, ask(4, FOX, owner=1))


@pytest.mark.parametrize("hint", [Hint(2, "gone"), Hint(2, "person"), Hint(2, "tool", 500.0)])
def test_who_is_gone_or_waits_long_is_given_up_first(small: Engine, hint: Hint) -> None:
    fill(small)
    small.hint(hint)
    press(small)

    assert find_whole(small, ask(4, FOX, owner=1))
    assert not find_whole(small, ask(5, CAT, owner=2))


def test_pages_that_two_processes_share_stay_when_one_is_gone(small: Engine) -> None:
    fill(small)
    find_whole(small, ask(6, CAT, owner=1))
    small.hint(Hint(2, "gone"))
    small.hint(Hint(1, "gone"))
    press(small)

    assert find_whole(small, ask(7, CAT, owner=1))


def test_what_is_remembered_of_owners_is_bounded_and_a_turn_replaces_the_one_before(
    small: Engine,
) -> None:
    owners = small._owners
    owners.remember(1, [b"a", b"b"])
    owners.remember(1, [b"a", b"b", b"c"])
    owners.remember(1, [b"a", b"x"])

    assert owners._generations == {1: [[b"a", b"b", b"c"], [b"a", b"x"]]}

    owners.remember(2, [b"y"] * (MAX_NAMES - 1))

    assert list(owners._generations) == [2]
    assert owners._num_names == MAX_NAMES - 1


def test_a_hint_about_nobody_is_no_matter(small: Engine) -> None:
    small.hint(Hint(99, "gone"))

    assert small.collect_stats().num_pages_cached == 0


def test_the_pages_of_who_waits_for_a_person_outlive_the_engine(
    qwen3: Path, tmp_path: Path
) -> None:
    spec = Load(str(qwen3), page_folder=str(tmp_path))
    first = Engine(spec, num_pages=64)
    find_whole(first, ask(1, FOX, owner=1))
    find_whole(first, ask(2, CAT, owner=2))
    first.hint(Hint(1, "person"))
    rest(first)
    first.close()

    second = Engine(spec, num_pages=64)

    assert find_whole(second, ask(1, FOX, owner=1))
    assert not find_whole(second, ask(2, CAT, owner=2))
    second.close()


def rest(engine: Engine) -> None:
    """Let an idle engine copy down what it wants to, to the end."""
    while engine.rest():
        pass
    assert engine._swap.disk is not None
    assert engine._swap.disk.drain()
