"""Looking at the likeliest few gives the token that the whole vocabulary would have given."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.kernel.executor.sampler import find_best, find_largest, pick, sample
from llmos.kernel.executor.sequence import ResolvedSampling, Sequence

NUM_TOKENS = 40
# Few distinct values, so that equal ones are common; minus infinity is what a grammar forbids.
logits_of_a_row = st.lists(
    st.sampled_from([-float("inf"), -4.0, -1.0, -0.5, 0.0, 0.25, 1.0, 3.0, 8.0]),
    min_size=NUM_TOKENS,
    max_size=NUM_TOKENS,
).filter(lambda row: max(row) > -100)
samplings = st.builds(
    lambda top_k, top_p, min_p: ResolvedSampling(
        max_tokens=1, temperature=1.0, top_k=top_k, top_p=top_p, min_p=min_p
    ),
    st.sampled_from([0, 1, 2, 5, 8, 20, 40, 99]),
    st.sampled_from([1.0, 0.999, 0.9, 0.5, 0.25, 0.01]),
    st.sampled_from([0.0, 0.01, 0.3, 1.0]),
)
goals = st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([0.0, 0.25, 0.5, 1 - 2**-53]))
rows = st.lists(st.tuples(logits_of_a_row, samplings, goals), min_size=1, max_size=5)


@settings(deadline=None, max_examples=300)
@given(rows, st.integers(1, NUM_TOKENS))
def test_a_certain_token_is_the_one_of_the_whole(
    batch: list[tuple[list[float], ResolvedSampling, float]], num_candidates: int
) -> None:
    logits = torch.tensor([row for row, _, _ in batch])
    probabilities, goal = logits.softmax(-1), torch.tensor([one for _, _, one in batch]).double()
    parameters = [one for _, one, _ in batch]

    few, is_certain = pick(logits, probabilities, goal, parameters, num_candidates)
    whole, is_whole_certain = pick(logits, probabilities, goal, parameters, NUM_TOKENS)

    assert is_whole_certain.all()
    assert few[is_certain].tolist() == whole[is_certain].tolist()
    assert torch.isfinite(logits.gather(1, whole.unsqueeze(1))).all()


def test_most_rows_of_a_trained_models_kind_are_certain() -> None:
    logits = torch.log_softmax(
        torch.randn(64, 5000, generator=torch.Generator().manual_seed(1)) * 6, -1
    )
    parameters = [ResolvedSampling(max_tokens=1, temperature=1.0, top_p=0.9)] * 64
    goal = torch.linspace(0, 0.99, 64).double()

    _, is_certain = pick(logits, logits.exp(), goal, parameters, 1024)

    assert is_certain.float().mean() > 0.9


@settings(deadline=None, max_examples=25)
@given(st.lists(samplings, min_size=2, max_size=6), st.integers(0, 2**32))
def test_a_draw_does_not_depend_on_who_else_is_drawn(
    parameters: list[ResolvedSampling], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(parameters), 3000, generator=generator) * 3
    sequences = [Sequence(n, [0] * (n + 1), one, b"") for n, one in enumerate(parameters)]

    together = sample(logits, sequences)

    alone = [sample(logits[n : n + 1], [one])[0] for n, one in enumerate(sequences)]
    assert together == alone


# Equal numbers are common; 1,280 tokens are 20 blocks, 1,000 are none.
matrices = st.builds(
    lambda seed, num_tokens, num_values: torch.randint(
        num_values, (3, num_tokens), generator=torch.Generator().manual_seed(seed)
    ).float(),
    st.integers(0, 2**32),
    st.sampled_from([1280, 1000]),
    st.sampled_from([2, 40, 100_000]),
)


@settings(deadline=None, max_examples=100)
@given(matrices)
def test_the_best_is_the_first_of_the_largest(logits: torch.Tensor) -> None:
    best, places = find_best(logits)

    assert torch.equal(best, logits.amax(-1))
    assert torch.equal(places, logits.argmax(-1))


@settings(deadline=None, max_examples=100)
@given(matrices, st.integers(1, 5))
def test_the_largest_are_found_by_blocks_as_they_are_at_once(
    logits: torch.Tensor, count: int
) -> None:
    found = find_largest(logits, count)

    assert all(len(set(row)) == count for row in found.tolist())
    values = logits.gather(1, found).sort(descending=True).values
    assert torch.equal(values, logits.topk(count).values)


def test_no_number_is_found_whatever_its_block() -> None:
    logits = torch.zeros(3, 1280)
    logits[1, 700] = float("nan")

    assert find_best(logits)[0].isnan().tolist() == [False, True, False]
