"""Generated dialogues: the same by seed, in OpenAI's form, with nothing held out in training."""

import json
import random
import re
from itertools import islice

import pytest

from models import tasks_tools
from models.dialogues import PIECES, Dialogue, Piece, make_dialogue, make_dialogues, make_task
from models.talk import Talk, to_second_person, to_sentence, write_sloppily
from models.words import POOLS, Fillers, is_held_out


def take(seed: int, count: int) -> list[Dialogue]:
    return list(islice(make_dialogues(seed), count))


def words_of(dialogue: Dialogue) -> set[str]:
    return set(re.findall(r"[^\W\d_]+", json.dumps(dialogue.messages).lower()))


def test_the_same_seed_makes_the_same_dialogues() -> None:
    assert take(1, 50) == take(1, 50)
    assert take(1, 50) != take(2, 50)


def test_no_held_out_word_of_a_pool_occurs_in_training_dialogues() -> None:
    held_out = {
        part.lower()
        for pool in POOLS.values()
        for word in pool
        for part in word.split()
        if is_held_out(part)
    }

    seen = set().union(*(words_of(dialogue) for dialogue in take(3, 1000)))

    assert len(held_out) > 20
    assert not held_out & seen


def test_training_and_held_out_dialogues_share_no_filler() -> None:
    rng = random.Random(4)

    training = set().union(*(each.fillers for each in take(4, 400)))
    held_out = set().union(*(make_dialogue(rng, held_out=True).fillers for _ in range(400)))

    assert not {each for each in training & held_out if len(each) > 1}


@pytest.mark.parametrize("piece", PIECES, ids=lambda piece: piece.__name__)
def test_every_piece_ends_with_the_assistant(piece: Piece) -> None:
    rng = random.Random(5)

    for _ in range(50):
        messages = make_task(rng, piece, "You are a helpful assistant.", tools=True).messages

        assert [each["role"] for each in messages[:2]] == ["system", "user"]
        assert messages[-1]["role"] == "assistant"


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("my cat is called Miso", "your cat is called Miso"),
        ("I live in Oslo.", "you live in Oslo"),
        ("i am a baker", "you are a baker"),
        ("I'm from Riga", "you are from Riga"),
    ],
)
def test_statements_are_said_back_in_the_second_person(statement: str, said: str) -> None:
    assert to_second_person(statement) == said
    assert to_sentence(statement) == said[0].upper() + said[1:] + "."


def test_sums_are_what_python_makes_of_them() -> None:
    assert tasks_tools.evaluate("17 * 23") == "391"
    assert tasks_tools.evaluate("1 / 4") == "0.25"
    assert tasks_tools.evaluate("1 / 0") is None


def test_a_request_for_a_missing_tool_is_declined() -> None:
    talk = Talk(Fillers(random.Random(6)), tools=["clock"])

    tasks_tools.read_file(talk)

    assert [each["content"] for each in talk.messages[1:]] == [tasks_tools.NO_TOOL]


def test_sloppy_writing_keeps_the_slots_of_a_template() -> None:
    rng = random.Random(7)

    texts = {write_sloppily(rng, "What is the {n} of {v}?") for _ in range(200)}

    assert len(texts) > 4
    assert all("{n}" in text and "{v}" in text for text in texts)
