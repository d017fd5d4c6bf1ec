"""Training and held-out fillers never meet."""

import random

from models.words import POOLS, Fillers, is_held_out, make_word

KINDS = ("name", "city", "job", "food", "thing", "number", "time", "file", "words", "full")


def draw(seed: int, held_out: bool) -> set[str]:
    fillers = Fillers(random.Random(seed), held_out)
    for _ in range(300):
        for kind in KINDS:
            fillers.fill(kind)
    return fillers.used


def test_no_held_out_filler_is_drawn_for_training() -> None:
    training, held_out = draw(1, held_out=False), draw(2, held_out=True)

    assert len(training) > 1000
    assert len(held_out) > 1000
    assert not training & held_out


def test_every_drawn_filler_is_of_the_half_asked_for() -> None:
    assert not any(is_held_out(filler) for filler in draw(3, held_out=False) if " " not in filler)
    assert all(is_held_out(filler) for filler in draw(3, held_out=True) if " " not in filler)


def test_the_same_seed_draws_the_same_fillers() -> None:
    assert draw(5, held_out=False) == draw(5, held_out=False)


def test_single_digits_are_in_both_halves() -> None:
    assert not any(is_held_out(digit) for digit in "0123456789")


def test_made_up_words_are_four_to_ten_letters_and_rarely_repeat() -> None:
    rng = random.Random(0)

    words = [make_word(rng) for _ in range(1000)]

    assert all(4 <= len(word) <= 10 and word.isalpha() for word in words)
    assert len(set(words)) > 850


def test_every_pool_has_words_to_train_with() -> None:
    assert all(sum(not is_held_out(word) for word in pool) > 10 for pool in POOLS.values())
