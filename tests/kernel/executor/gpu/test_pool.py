"""Triton's attention over pages: right by the definition, in any cut and any company."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.kernel.executor.attention import Step
from llmos.kernel.executor.gpu.layout import Layout

from ..paged import PAGE_SIZE, Attention, Cut, Story, measure_error
from .conftest import DEVICE

pytest.importorskip("triton")

from llmos.kernel.executor.gpu.pool import TritonPool

NAN = float("nan")
LENGTHS = [37, 17, 1]
STEPS: list[list[Cut]] = [
    [(0, 0, 5), (1, 0, 16)],
    [(0, 5, 36), (1, 16, 17), (2, 0, 1)],
    [(0, 36, 37)],
]
SHAPES = [
    {"num_groups": 1, "key_dim": 16, "value_dim": 16},
    {"num_groups": 3, "key_dim": 24, "value_dim": 40},
    {"num_heads": 1, "num_groups": 8, "key_dim": 80, "value_dim": 64},
    {"num_heads": 3, "num_groups": 5, "key_dim": 20, "value_dim": 256},
]
MASKS = [{}, {"window": 7}, {"softcap": 3.0}, {"window": 20, "softcap": 20.0}]
KINDS = [Attention(**shape, **MASKS[index]) for index, shape in enumerate(SHAPES)]  # type: ignore[arg-type]
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def make_pool(story: Story, wanted_programs: int = 1) -> TritonPool:
    pool = story.make_slots(TritonPool)
    pool.wanted_programs = wanted_programs
    return pool


def is_right(story: Story, found: list[torch.Tensor]) -> bool:
    """Whether every sequence's rows are by the definition, as far as the precision goes."""
    errors = [measure_error(rows, story.compute(one)) for one, rows in enumerate(found)]
    return max(errors) < TOLERANCES[story.dtype]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_prefill_chunks_and_decodes_answer_by_the_definition(kind: Attention) -> None:
    story = Story(kind, LENGTHS, dtype=torch.float32, device=DEVICE)

    assert is_right(story, story.run(make_pool(story), *STEPS))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_as_near_as_its_numbers_allow(dtype: torch.dtype) -> None:
    if dtype == torch.bfloat16 and DEVICE == "cpu":
        pytest.skip("Triton's interpreter multiplies bfloat16 as if it were integers")
    story = Story(KINDS[3], LENGTHS, dtype=dtype, device=DEVICE)

    assert is_right(story, story.run(make_pool(story), *STEPS))


@st.composite
def plans(draw: st.DrawFn) -> tuple[list[int], list[list[Cut]]]:
    """Lengths of some sequences, and steps that compute them in some cuts, in some company."""
    lengths = draw(st.lists(st.integers(1, 70), min_size=1, max_size=3))
    steps: list[list[Cut]] = [[] for _ in range(5)]
    for one, length in enumerate(lengths):
        inner = draw(st.sets(st.integers(1, max(length - 1, 1)), max_size=3))
        cuts = sorted({0, length} | {cut for cut in inner if cut < length})
        first = draw(st.integers(0, len(steps) - len(cuts) + 1))
        for step, start, stop in zip(steps[first:], cuts, cuts[1:], strict=False):
            step.append((one, start, stop))
    return lengths, [step for step in steps if step]


kinds = st.builds(
    Attention,
    num_heads=st.integers(1, 2),
    num_groups=st.integers(1, 5),
    key_dim=st.integers(1, 40),
    value_dim=st.integers(1, 40),
    window=st.none() | st.integers(1, 80),
    softcap=st.none() | st.floats(1.0, 50.0),
)


@given(kind=kinds, plan=plans(), page_seed=st.integers(0, 3), is_half=st.booleans())
@settings(deadline=None, max_examples=5)
def test_any_shape_in_any_cuts_and_any_pages_is_right(
    kind: Attention, plan: tuple[list[int], list[list[Cut]]], page_seed: int, is_half: bool
) -> None:
    dtype = torch.float16 if is_half else torch.float32
    lengths, steps = plan
    story = Story(kind, lengths, page_seed=page_seed, dtype=dtype, device=DEVICE)

    assert is_right(story, story.run(make_pool(story), *steps))


@pytest.mark.parametrize("window", [None, 280])
def test_a_long_context_in_turns_is_the_same(window: int | None) -> None:
    story = Story(Attention(1, 2, window=window), [300, 3], dtype=torch.float32, device=DEVICE)
    steps: list[list[Cut]] = [[(0, 0, 299), (1, 0, 2)], [(0, 299, 300), (1, 2, 3)]]

    together = story.run(make_pool(story, wanted_programs=64), *steps)

    assert is_right(story, together)
    assert not torch.equal(together[0][-1], story.run(make_pool(story), *steps)[0][-1])


def test_what_was_in_the_pages_before_does_not_matter() -> None:
    story = Story(KINDS[1], LENGTHS, dtype=torch.float32, device=DEVICE)
    dirty = make_pool(story)
    for numbers in (dirty.keys[0], dirty.values[0]):
        numbers.fill_(NAN)

    assert is_right(story, story.run(dirty, *STEPS))


def test_a_page_of_another_sequence_is_seen() -> None:
    """The control: the comparisons above fail when a table is wrong."""
    story = Story(Attention(), [20, 20], dtype=torch.float32, device=DEVICE)
    pool = make_pool(story)
    story.run(pool, [(0, 0, 19), (1, 0, 19)])
    story.tables[0][0] = story.tables[1][0]

    found = story.run(pool, [(0, 19, 20)])[0][-1]

    assert measure_error(found, story.compute(0)[-1]) > 0.1


def test_padding_writes_nothing_and_gets_zeros() -> None:
    story = Story(Attention(), [3], dtype=torch.float32, device=DEVICE)
    pool = make_pool(story)
    before = pool.keys[0].clone()
    slots = torch.full((2,), -1, device=story.device)
    tiles = torch.zeros(2, 4, dtype=torch.int32, device=story.device)
    layout = Layout(slots, tiles, torch.zeros_like(tiles), max_tokens=PAGE_SIZE)
    step = Step(pool, np.zeros(0, np.int64), 2, [])
    row = story.queries[0][:2].transpose(0, 1)[None]

    pool.prepare(step, layout)
    pool.write(0, row[:, :2], row[:, :2], step)
    out = pool.attend(0, row, step, 1.0, None, None)

    assert torch.equal(pool.keys[0], before)
    assert torch.equal(out, torch.zeros_like(out))
