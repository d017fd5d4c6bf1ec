"""Drawing tokens: known answers, independence of the batch, every parameter."""

import numpy as np
import pytest
import torch

from llmos.kernel.executor.sampler import draw_uniform, philox, sample
from llmos.kernel.executor.sequence import ResolvedSampling, Sequence

ONES = 0xFFFFFFFF
LOGITS = torch.log(torch.tensor([0.5, 0.25, 0.15, 0.1]))


def make_sequence(tokens: tuple[int, ...] = (0,), /, **parameters: float) -> Sequence:
    sampling = ResolvedSampling(max_tokens=9, **parameters)  # type: ignore[arg-type]
    return Sequence(0, list(tokens), sampling, b"")


def draw_many(num_draws: int = 4000, **parameters: float) -> dict[int, float]:
    """The share of each token over many seeds."""
    sequences = [make_sequence(seed=seed, **parameters) for seed in range(num_draws)]
    tokens = sample(LOGITS.expand(num_draws, -1), sequences)
    return {token: tokens.count(token) / num_draws for token in set(tokens) if token is not None}


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([ONES] * 4, [ONES] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_its_published_answers(
    counter: list[int], key: list[int], expected: list[int]
) -> None:
    words = philox(np.array([counter], np.uint64), np.array([key], np.uint64))

    assert words.tolist() == [expected]


def test_uniform_numbers_depend_on_seed_and_position_alone() -> None:
    together = draw_uniform([1, 2, 2**63 - 1], [5, 5, 2**40])

    assert together[1] == draw_uniform([2], [5])[0]
    assert len(set(together)) == 3
    assert ((together >= 0) & (together < 1)).all()


def test_temperature_zero_takes_the_likeliest() -> None:
    assert sample(LOGITS.unsqueeze(0), [make_sequence()]) == [0]


def test_draws_follow_the_distribution() -> None:
    shares = draw_many(temperature=1.0)

    assert shares == pytest.approx({0: 0.5, 1: 0.25, 2: 0.15, 3: 0.1}, abs=0.03)


def test_top_k_keeps_the_k_likeliest() -> None:
    assert draw_many(temperature=1.0, top_k=2) == pytest.approx({0: 2 / 3, 1: 1 / 3}, abs=0.03)


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    assert set(draw_many(temperature=1.0, top_p=0.6)) == {0, 1}


def test_min_p_is_a_share_of_the_likeliest() -> None:
    assert set(draw_many(temperature=1.0, min_p=0.4)) == {0, 1}


def test_a_penalty_on_what_was_said_changes_the_choice() -> None:
    said = make_sequence((3, 0), presence_penalty=1.0)
    said.num_prompt = 1

    assert sample(LOGITS.unsqueeze(0), [said]) == [1]


def test_a_repetition_penalty_counts_the_prompt_too() -> None:
    sequence = make_sequence((0,), repetition_penalty=3.0)

    assert sample(LOGITS.unsqueeze(0), [sequence]) == [1]


def test_a_draw_does_not_depend_on_the_rest_of_the_batch() -> None:
    one = make_sequence(temperature=0.7, seed=11, frequency_penalty=0.5)
    others = [make_sequence(), make_sequence(temperature=1.5, seed=2, top_k=1), one]

    alone = sample(LOGITS.unsqueeze(0), [one])
    together = sample(LOGITS.expand(3, -1), others)

    assert together[2] == alone[0]


@pytest.mark.parametrize("temperature", [0.0, 1e-6])
def test_numbers_that_are_not_finite_give_no_token(temperature: float) -> None:
    logits = torch.stack([LOGITS, torch.full((4,), float("nan"))])
    sequence = make_sequence(temperature=temperature)

    assert sample(logits, [sequence, sequence]) == [0, None]
