"""Attention over pages: right by the definition, and every token on its own."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.kernel.executor.attention import LayerShape
from llmos.kernel.executor.native.pool import fits

from ..paged import NUM_PAGES, Attention, Cut, Story, measure_error

pytestmark = pytest.mark.usefixtures("kernels")
NAN = float("nan")
KINDS = [
    Attention(2, groups, *dims, window=window, softcap=softcap)
    for (groups, dims), (window, softcap) in itertools.product(
        [
            (1, (16, 16)),
            (2, (64, 64)),
            (3, (80, 48)),
            (8, (128, 128)),
            (2, (256, 256)),
            (3, (66, 512)),
        ],
        [(None, None), (20, None), (None, 3.0), (37, 20.0)],
    )
]
INVARIANT = [Attention(num_groups=3), Attention(window=19), Attention(1, 8, 64, 64, softcap=5.0)]
LENGTHS = [45, 17, 70, 1]
WHOLE = [(0, 0, 45), (1, 0, 17), (2, 0, 70), (3, 0, 1)]
CUT: list[list[Cut]] = [
    [(0, 0, 5), (2, 0, 33)],
    [(0, 5, 21), (1, 0, 16), (2, 33, 34), (3, 0, 1)],
    [(0, 21, 45), (1, 16, 17), (2, 34, 69)],
    [(2, 69, 70)],
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_prefill_chunks_and_decodes_answer_by_the_definition(kind: Attention) -> None:
    story = Story(kind, LENGTHS)

    found = story.run(story.make_native(), *CUT)

    for sequence, rows in enumerate(found):
        assert measure_error(rows, story.compute(sequence)) < 0.005


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_plain_pool_agrees(kind: Attention) -> None:
    story = Story(kind, LENGTHS)

    native, plain = (story.run(pool, *CUT) for pool in (story.make_native(), story.make_plain()))

    for a, b in zip(native, plain, strict=True):
        assert measure_error(a, b) < 0.01


def test_a_large_score_overflows_nothing() -> None:
    story = Story(Attention(softcap=50.0), [40])
    story.queries[0] *= 500

    found = story.run(story.make_native(), [(0, 0, 40)])

    assert measure_error(found[0], story.compute(0)) < 0.005


@st.composite
def plans(draw: st.DrawFn) -> list[list[Cut]]:
    """Steps that compute all of `LENGTHS` in some cuts, in some company."""
    steps: list[list[Cut]] = [[] for _ in range(8)]
    for one, length in enumerate(LENGTHS):
        inner = draw(st.sets(st.integers(1, max(length - 1, 1)), max_size=6))
        cuts = sorted({0, length} | {cut for cut in inner if cut < length})
        first = draw(st.integers(0, len(steps) - len(cuts) + 1))
        for step, start, stop in zip(steps[first:], cuts, cuts[1:], strict=False):
            step.append((one, start, stop))
    return [step for step in steps if step]


@given(kind=st.sampled_from(INVARIANT), steps=plans(), page_seed=st.integers(0, 3))
@settings(deadline=None, max_examples=60)
def test_a_token_is_the_same_in_any_cut_any_batch_and_any_pages(
    kind: Attention, steps: list[list[Cut]], page_seed: int
) -> None:
    alone = Story(kind, LENGTHS)
    wanted = [alone.run(alone.make_native(), [whole])[whole[0]] for whole in WHOLE]

    story = Story(kind, LENGTHS, page_seed=page_seed)
    found = story.run(story.make_native(), *steps)

    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_a_page_of_another_sequence_is_seen() -> None:
    """The control: the comparisons above fail when a table is wrong."""
    story = Story(Attention(), [45, 45])
    pool = story.make_native()
    wanted = story.run(pool, [(0, 0, 44), (1, 0, 44)], [(0, 44, 45)])[0][-1]

    story.tables[0][0] = story.tables[1][0]
    found = story.run(pool, [(0, 44, 45)])[0][-1]

    assert not torch.equal(found, wanted)
    assert measure_error(found, story.compute(0)[-1]) > 0.1


def test_what_was_in_the_pages_before_does_not_matter() -> None:
    story = Story(Attention(window=30), LENGTHS)
    clean, dirty = story.make_native(), story.make_native()
    for numbers in (dirty.keys[0], dirty.values[0]):
        numbers.fill_(NAN)

    assert all(
        torch.equal(a, b)
        for a, b in zip(story.run(clean, *CUT), story.run(dirty, *CUT), strict=True)
    )


def test_numbers_that_are_not_finite_are_not_hidden() -> None:
    story = Story(Attention(), [20])
    story.keys[0][5] = NAN

    found = story.run(story.make_native(), [(0, 0, 20)])[0]

    assert found[:5].isfinite().all()
    assert found[5:].isnan().all()


def test_what_is_written_lies_in_its_slot() -> None:
    story = Story(Attention(num_heads=3, key_dim=16, value_dim=32), LENGTHS)
    pool = story.make_native()
    story.run(pool, *CUT)

    keys = pool.keys[0].view(NUM_PAGES, 3, 8, 16, 2).permute(0, 3, 1, 2, 4).flatten(3)
    values = pool.values[0].view(NUM_PAGES, 3, 8, 32, 2).permute(0, 2, 4, 1, 3).flatten(1, 2)

    for sequence, table in enumerate(story.tables):
        for found, wanted in ((keys, story.keys[sequence]), (values, story.values[sequence])):
            assert torch.equal(found[table.tolist()].flatten(0, 1)[: len(wanted)], wanted)


def test_a_window_of_one_token_gives_its_value_back() -> None:
    story = Story(Attention(num_groups=1, window=1), LENGTHS)

    found = story.run(story.make_native(), *CUT)

    assert all(torch.equal(a, b) for a, b in zip(found, story.values, strict=True))


@pytest.mark.parametrize("key_dim", [16, 48])
def test_other_precisions_are_rounded_on_the_way_in(key_dim: int) -> None:
    story = Story(Attention(key_dim=key_dim), [40])
    wanted = story.run(story.make_native(), [(0, 0, 40)])[0]

    story.queries, story.keys = ([one.float() for one in x] for x in (story.queries, story.keys))
    found = story.run(story.make_native(), [(0, 0, 40)])[0]

    assert torch.equal(found, wanted.float())


@pytest.mark.parametrize(
    ("key_dim", "value_dim", "expected"),
    [
        (64, 64, True),
        (66, 512, True),
        (65, 64, False),
        (64, 24, False),
        (64, 528, False),
        (514, 64, False),
    ],
)
def test_which_layers_fit(key_dim: int, value_dim: int, expected: bool) -> None:
    layers = [LayerShape(2, 64, 64), LayerShape(2, key_dim, value_dim)]

    assert fits(layers) is expected
