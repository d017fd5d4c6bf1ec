"""What the tests of products have in common, whatever the weights are made of."""

import pytest
import torch
from hypothesis import strategies as st

from llmos.kernel.executor.native.modules import PackedLinear

HALF_A_STEP = 2.0**-8  # of a bfloat16 number
MAX_ROWS = 20
CHOICES_OF_ROWS = st.lists(st.integers(0, MAX_ROWS - 1), min_size=1, max_size=MAX_ROWS)
# Many rows are computed some at a time, and on a part of the inputs at a time.
NUM_ROWS = pytest.mark.parametrize("num_rows", [7, 96, 97, 205])
NUM_INPUTS = pytest.mark.parametrize("num_inputs", [510, 512, 514, 1100])


def draw(*shape: int, seed: int = 3) -> torch.Tensor:
    """Random numbers, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def multiply_alone(packed: PackedLinear, x: torch.Tensor) -> torch.Tensor:
    """The product of each row by itself."""
    return torch.cat([packed(row.unsqueeze(0)) for row in x])
