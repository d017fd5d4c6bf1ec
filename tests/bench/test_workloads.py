"""Every engine gets the same tokens, and no round can live on an earlier one's cache."""

import pytest

from bench.peers.workloads import (
    NUM_SHARED,
    TITLES,
    Workload,
    make_warm_up,
    make_workload,
)

VOCABULARY = 151_936


def prompts(workload: Workload) -> list[tuple[int, ...]]:
    return [session[0].added for session in workload]


@pytest.mark.parametrize("name", TITLES)
def test_a_round_is_the_same_whenever_it_is_made(name: str) -> None:
    assert make_workload(name, 3, VOCABULARY) == make_workload(name, 3, VOCABULARY)


@pytest.mark.parametrize("name", TITLES)
def test_rounds_begin_differently(name: str) -> None:
    rounds = [prompts(make_workload(name, number, VOCABULARY)) for number in range(5)]

    assert len({one[0][:16] for one in rounds}) == 5


@pytest.mark.parametrize(("name", "num_new"), [("a", 128), ("b", 2048), ("c", 2048), ("d", 2048)])
def test_a_workload_asks_for_its_tokens(name: str, num_new: int) -> None:
    workload = make_workload(name, 0, VOCABULARY)

    assert sum(turn.num_new for session in workload for turn in session) == num_new


def test_prompts_of_b_share_nothing_and_those_of_c_their_prefix() -> None:
    b, c = (prompts(make_workload(name, 0, VOCABULARY)) for name in "bc")

    assert len({prompt[:2] for prompt in b}) == len(b) == 16
    assert len({prompt[:NUM_SHARED] for prompt in c}) == 1
    assert len({prompt[: NUM_SHARED + 2] for prompt in c}) == len(c) == 16


def test_all_prompts_of_a_turn_have_one_length() -> None:
    workloads = [make_workload(name, 0, VOCABULARY) for name in TITLES]

    for workload in [*workloads, make_warm_up(VOCABULARY)]:
        assert len({tuple(len(turn.added) for turn in session) for session in workload}) == 1


def test_an_unknown_workload_is_refused() -> None:
    with pytest.raises(ValueError, match="'e'"):
        make_workload("e", 0, VOCABULARY)
