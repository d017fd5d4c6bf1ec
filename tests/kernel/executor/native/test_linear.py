"""Products: as exact as bfloat16 allows, and every row on its own."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from torch import nn

from llmos.kernel.executor.native.modules import PackedLinear, replace_modules

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


def make(num_outputs: int, num_inputs: int, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(num_outputs)
    return nn.Linear(num_inputs, num_outputs, bias=bias, dtype=torch.bfloat16).requires_grad_(False)


def pack(linear: nn.Linear) -> PackedLinear:
    return PackedLinear(linear.weight, linear.bias)


def compute(linear: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """The product in float32."""
    bias = None if linear.bias is None else linear.bias.float()
    return nn.functional.linear(x.float(), linear.weight.float(), bias)


def assert_rounded(found: torch.Tensor, exact: torch.Tensor) -> None:
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, rtol=HALF_A_STEP, atol=1e-5)


@pytest.mark.parametrize("num_outputs", [1, 16, 40, 64, 100, 333])
@pytest.mark.parametrize("num_inputs", [2, 30, 64, 222])
def test_an_answer_is_the_exact_one_rounded(num_outputs: int, num_inputs: int) -> None:
    linear = make(num_outputs, num_inputs)
    x = torch.randn(7, num_inputs).bfloat16()

    assert_rounded(pack(linear)(x), compute(linear, x))


@pytest.mark.parametrize("num_rows", range(1, MAX_ROWS + 1))
def test_any_number_of_rows_is_computed(num_rows: int) -> None:
    linear = make(100, 64, bias=False)
    x = torch.randn(num_rows, 64).bfloat16()

    assert_rounded(pack(linear)(x), compute(linear, x))


def test_leading_dimensions_and_strides_do_not_matter() -> None:
    linear = make(24, 16)
    x = torch.randn(2, 16, 3).bfloat16().transpose(1, 2)

    assert_rounded(pack(linear)(x), compute(linear, x))


@settings(deadline=None)
@given(rows=CHOICES_OF_ROWS)
def test_a_row_is_the_same_alone_and_beside_any_others(rows: list[int]) -> None:
    packed, x = pack(make(130, 96)), draw(MAX_ROWS, 96)

    assert torch.equal(packed(x[rows]), multiply_alone(packed, x[rows]))


@NUM_INPUTS
@NUM_ROWS
def test_many_rows_in_parts_of_the_inputs_are_the_same_as_alone(
    num_rows: int, num_inputs: int
) -> None:
    linear, x = make(72, num_inputs), draw(num_rows, num_inputs)
    packed = pack(linear)

    found = packed(x)

    assert torch.equal(found, multiply_alone(packed, x))
    assert_rounded(found, compute(linear, x))


def test_no_rows_give_none() -> None:
    assert pack(make(8, 16))(torch.empty(0, 16).bfloat16()).shape == (0, 8)


@pytest.fixture
def restore_threads() -> Iterator[None]:
    """Threads as they were, afterwards."""
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


@pytest.mark.usefixtures("restore_threads")
def test_the_number_of_threads_does_not_matter() -> None:
    packed, x = pack(make(400, 96)), torch.randn(9, 96).bfloat16()
    answers = []
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        answers.append(packed(x))

    assert torch.equal(*answers)


def test_a_row_that_is_not_finite_stays_alone() -> None:
    packed = pack(make(40, 32))
    x = torch.randn(9, 32).bfloat16()
    x[4, 3] = float("nan")

    is_bad = packed(x).isnan()

    assert is_bad[4].all()
    assert not is_bad[[0, 1, 2, 3, 5, 6, 7, 8]].any()


@pytest.mark.parametrize("x", [torch.ones(2, 16), torch.ones(2, 18).bfloat16()])
def test_what_is_no_input_is_refused(x: torch.Tensor) -> None:
    packed = pack(make(8, 16))

    with pytest.raises(TypeError, match=r"no bfloat16 \[\.\.\., 16\]"):
        packed(x)


def test_the_weights_can_be_read_back() -> None:
    linear = make(100, 30)

    assert torch.equal(pack(linear).weight, linear.weight)


@pytest.mark.parametrize(
    "linear",
    [make(8, 15), make(8, 16).float(), nn.Bilinear(4, 4, 8, dtype=torch.bfloat16)],
    ids=["odd", "float32", "another class"],
)
def test_what_the_kernel_cannot_take_stays(linear: nn.Module) -> None:
    network = nn.ModuleList([linear])

    replace_modules(network)

    assert network[0] is linear
