"""Products of int8 weights: exact but for the weights' own rounding, and every row on its own."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.kernel.executor.native.library import AVX2, Instructions, limited_to
from llmos.kernel.executor.native.modules import PackedLinear

from .conftest import find_sets
from .rows import (
    CHOICES_OF_ROWS,
    HALF_A_STEP,
    MAX_ROWS,
    NUM_INPUTS,
    NUM_ROWS,
    draw,
    multiply_alone,
)

pytestmark = pytest.mark.usefixtures("kernels")
# Many rows take widened weights only by AVX-512: the same by what more processors have.
WIDENED_ONCE = Instructions(
    "AVX2, widened once", AVX2.processor_flags, (*AVX2.compiler_flags, "-DWIDENS_ONCE=1")
)


@pytest.fixture(scope="module", params=[*find_sets(), WIDENED_ONCE], ids=lambda one: one.name)
def instructions(request: pytest.FixtureRequest) -> Iterator[Instructions]:
    """Each set of instructions that this processor has, in force."""
    with limited_to(request.param):
        yield request.param


def pack(weight: torch.Tensor, bias: torch.Tensor | None = None) -> PackedLinear:
    return PackedLinear(weight, bias, is_int8=True)


def round_weights(weight: torch.Tensor) -> torch.Tensor:
    """The nearest steps of a 127th of each row's greatest, in float64."""
    scales = weight.float().abs().amax(1, keepdim=True) / 127
    steps = (weight.float() / scales).nan_to_num().round()  # a row may be all zeros
    return steps.double() * scales.double()


def assert_product(found: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> None:
    exact = x.double() @ round_weights(weight).T
    atol = 1e-5 * float(exact.abs().max())
    torch.testing.assert_close(found.double(), exact, rtol=HALF_A_STEP, atol=atol)


@settings(deadline=None, max_examples=60)
@given(
    num_rows=st.integers(1, 2 * MAX_ROWS),
    num_pairs=st.integers(1, 400),
    num_outputs=st.integers(1, 150),
)
def test_an_answer_is_the_exact_one_rounded(
    num_rows: int, num_pairs: int, num_outputs: int
) -> None:
    weight, x = draw(num_outputs, num_pairs * 2, seed=num_pairs), draw(num_rows, num_pairs * 2)

    assert_product(pack(weight)(x), x, weight)


@pytest.mark.parametrize("num_rows", [1, 9])
def test_a_scale_that_is_wrong_would_be_found(num_rows: int) -> None:
    weight, x = draw(40, 64), draw(num_rows, 64)
    packed = pack(weight)
    assert packed.scales is not None
    packed.scales[7] *= 1.02

    with pytest.raises(AssertionError, match="not close"):
        assert_product(packed(x), x, weight)


@settings(deadline=None)
@given(rows=CHOICES_OF_ROWS)
def test_a_row_is_the_same_alone_and_beside_any_others(rows: list[int]) -> None:
    packed, x = pack(draw(130, 96)), draw(MAX_ROWS, 96)

    assert torch.equal(packed(x[rows]), multiply_alone(packed, x[rows]))


@NUM_INPUTS
@NUM_ROWS
def test_many_rows_in_parts_of_the_inputs_are_the_same_as_alone(
    num_rows: int, num_inputs: int
) -> None:
    weight, x = draw(72, num_inputs), draw(num_rows, num_inputs)
    packed = pack(weight)

    found = packed(x)

    assert torch.equal(found, multiply_alone(packed, x))
    assert_product(found, x, weight)


@pytest.mark.parametrize("num_rows", [1, 7])
def test_an_output_without_weights_is_its_bias(num_rows: int) -> None:
    weight, bias = draw(33, 32), draw(33, seed=4)
    weight[[0, 16, 32]] = 0

    found = pack(weight, bias)(draw(num_rows, 32))

    assert torch.equal(found[:, [0, 16, 32]], bias[[0, 16, 32]].expand(num_rows, 3))
    assert not torch.equal(found[:, 1], bias[1].expand(num_rows))


def test_the_bias_is_not_scaled() -> None:
    weight, bias, x = draw(20, 30), draw(20, seed=4), draw(3, 30)

    found = pack(weight, bias)(x)

    exact = x.double() @ round_weights(weight).T + bias.double()
    torch.testing.assert_close(found.double(), exact, rtol=HALF_A_STEP, atol=1e-4)


def test_outputs_of_any_size_have_scales_of_their_own() -> None:
    weight = draw(64, 48) * torch.logspace(-30, 30, 64).unsqueeze(1).bfloat16()
    x = draw(2, 48)

    ratio = pack(weight)(x).double() / (x.double() @ round_weights(weight).T)

    torch.testing.assert_close(ratio, torch.ones(2, 64).double(), rtol=0.01, atol=0)


def test_the_weights_can_be_read_back_and_take_half_the_memory() -> None:
    weight = draw(100, 30)
    packed = pack(weight)

    assert torch.equal(packed.weight, round_weights(weight).float().bfloat16())
    assert packed.packed.nbytes * 2 == PackedLinear(weight, None).packed.nbytes
