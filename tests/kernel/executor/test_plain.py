"""Pages in torch: attention by the definition, and pages that nobody cleaned."""

import pytest
import torch

from .paged import Attention, Cut, Story

NAN = float("nan")
LENGTHS = [45, 17, 70, 1]
STEPS: list[list[Cut]] = [
    [(0, 0, 5), (2, 0, 33)],
    [(0, 5, 21), (1, 0, 16), (2, 33, 34), (3, 0, 1)],
    [(0, 21, 44), (1, 16, 17), (2, 34, 69)],
    [(0, 44, 45), (2, 69, 70)],
]
KINDS = [
    Attention(num_groups=1),
    Attention(num_groups=3, key_dim=24, value_dim=40),
    Attention(1, 8, window=20),
    Attention(softcap=3.0, window=37),
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_prefill_chunks_and_decodes_answer_by_the_definition(kind: Attention) -> None:
    story = Story(kind, LENGTHS, dtype=torch.float32)

    found = story.run(story.make_plain(), *STEPS)

    for sequence, rows in enumerate(found):
        torch.testing.assert_close(rows, story.compute(sequence), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_was_in_the_pages_before_does_not_matter(kind: Attention) -> None:
    story = Story(kind, LENGTHS, dtype=torch.float32)
    clean, dirty = story.make_plain(), story.make_plain()
    for numbers in (dirty.keys[0], dirty.values[0]):
        numbers.fill_(NAN)

    for a, b in zip(story.run(clean, *STEPS), story.run(dirty, *STEPS), strict=True):
        torch.testing.assert_close(a, b)


def test_a_page_of_another_sequence_is_seen() -> None:
    """The control: the first comparison fails when a table is wrong."""
    story = Story(Attention(), [45, 45], dtype=torch.float32)
    pool = story.make_plain()
    story.run(pool, [(0, 0, 44), (1, 0, 44)])

    story.tables[0][0] = story.tables[1][0]
    found = story.run(pool, [(0, 44, 45)])[0][-1]

    assert (found - story.compute(0)[-1]).abs().max() > 0.1
