"""Norm and gate: computed in float32, rounded once, every row on its own."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from llmos.kernel.executor.native.modules import GATES, NativeGate, NativeNorm

pytestmark = pytest.mark.usefixtures("kernels")
Activation = Callable[[torch.Tensor], torch.Tensor]
SILU = (1.0, 0.0)
HALF_A_STEP = 2.0**-8  # of a bfloat16 number


def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(5)) * scale).bfloat16()


@pytest.mark.parametrize("dim", [16, 48, 128, 1040])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_a_norm_is_the_exact_one_rounded(dim: int, scale: float) -> None:
    x, weight = draw(3, 5, dim, scale=scale), draw(dim)

    found = NativeNorm(weight, 1e-5)(x)

    exact = F.rms_norm(x.float(), (dim,), weight.float(), 1e-5)
    torch.testing.assert_close(found.float(), exact, rtol=HALF_A_STEP + 1e-5, atol=1e-9)


def test_a_norm_of_heads_in_a_view_is_the_same() -> None:
    norm, x = NativeNorm(torch.ones(16), 1e-6), draw(1, 4, 6, 16)

    assert torch.equal(norm(x.transpose(1, 2)), norm(x).transpose(1, 2))


def test_a_norm_gives_the_precision_that_it_got() -> None:
    norm, x = NativeNorm(draw(80), 1e-6), draw(3, 80)

    assert torch.equal(norm(x.float()), norm(x).float())


def test_a_row_of_a_norm_is_the_same_alone() -> None:
    norm, x = NativeNorm(draw(80), 1e-6), draw(300, 80)

    assert torch.equal(norm(x), torch.stack([norm(row) for row in x]))


class Identity(nn.Module):
    """The parts of a feed-forward layer, all of which give back what they get."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = (nn.Linear(dim, dim) for _ in range(3))
        for part in (self.gate_proj, self.up_proj, self.down_proj):
            part.weight.data, part.bias.data = torch.eye(dim), torch.zeros(dim)
        self.bfloat16()


@pytest.mark.parametrize(("activate", "gate"), GATES)
def test_a_gate_is_the_exact_one_rounded(activate: Activation, gate: tuple[float, float]) -> None:
    layer = NativeGate(Identity(64), gate)
    x = torch.linspace(-30, 30, 64 * 40).view(40, 64).bfloat16()

    found = layer(x).float()

    exact = activate(x.float()) * x.float()
    torch.testing.assert_close(found, exact, rtol=HALF_A_STEP + 1e-4, atol=1e-6)


def test_a_gate_of_large_and_of_no_numbers() -> None:
    layer = NativeGate(Identity(16), SILU)
    x = torch.tensor([[1e15] * 16, [-1e15] * 16, [float("nan")] * 16]).bfloat16()

    found = layer(x)

    assert found[0].isfinite().all()
    assert found[1].abs().max() < 1e-6
    assert found[2].isnan().all()
