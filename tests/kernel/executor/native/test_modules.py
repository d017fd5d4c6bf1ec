"""Which parts of a network are replaced, and that only what does the same is."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import Gemma2Config, LlamaConfig
from transformers.models.gemma2.modeling_gemma2 import Gemma2MLP, Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm
from transformers.pytorch_utils import Conv1D

from llmos.kernel.executor.native.modules import (
    NativeGate,
    NativeNorm,
    PackedLinear,
    replace_modules,
)

from ..paged import measure_error

pytestmark = pytest.mark.usefixtures("kernels")
Activation = Callable[[torch.Tensor], torch.Tensor]


@torch.inference_mode()
def replace(module: nn.Module) -> nn.Module:
    """What stands in the module's place afterwards."""
    network = nn.ModuleList([module.bfloat16().eval()])
    replace_modules(network)
    return network[0]


def randomize(module: nn.Module, scale: float = 0.1) -> nn.Module:
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=scale)
    return module


@torch.inference_mode()
def compare(native: nn.Module, original: nn.Module, dim: int) -> float:
    """How far their answers are apart."""
    x = torch.randn(9, dim, generator=torch.Generator().manual_seed(4)).bfloat16()
    return measure_error(native(x), original(x))


@pytest.mark.parametrize("kind", [LlamaRMSNorm, Gemma2RMSNorm])
def test_a_norm_is_replaced(kind: Callable[[int], nn.Module]) -> None:
    original = randomize(kind(64))

    native = replace(original)

    assert isinstance(native, NativeNorm)
    assert compare(native, original, 64) < 0.005


class CenteredRMSNorm(nn.Module):
    """Goes by the name of what it is not."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.variance_epsilon = 1e-6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, None, self.variance_epsilon)


class HiddenEpsilonRMSNorm(LlamaRMSNorm):  # type: ignore[misc]
    """Keeps its epsilon under a name of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, 1e-3)


class GatedRMSNorm(LlamaRMSNorm):  # type: ignore[misc]
    """Wants more than what is normalized."""

    def forward(self, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * gate  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [CenteredRMSNorm, HiddenEpsilonRMSNorm, GatedRMSNorm])
@pytest.mark.parametrize("dim", [16, 64, 4096])
def test_a_norm_that_is_another_stays(kind: Callable[[int], nn.Module], dim: int) -> None:
    original = kind(dim)

    assert replace(original) is original


def test_a_norm_of_a_size_that_the_kernel_cannot_take_stays() -> None:
    original = LlamaRMSNorm(40)

    assert replace(original) is original


def make_mlp(activation: str, *, bias: bool = False, scale: float = 0.1) -> nn.Module:
    sizes = {"hidden_size": 64, "intermediate_size": 96}
    config = LlamaConfig(**sizes, hidden_act=activation, mlp_bias=bias)
    return randomize(LlamaMLP(config), scale)


@pytest.mark.parametrize("activation", ["silu", "gelu_pytorch_tanh"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scale", [0.01, 0.1, 1.0])
def test_a_gated_layer_is_replaced(activation: str, bias: bool, scale: float) -> None:
    original = make_mlp(activation, bias=bias, scale=scale)

    native = replace(original)

    assert isinstance(native, NativeGate)
    assert compare(native, original, 64) < 0.01


def test_a_gated_layer_of_gemma_is_replaced() -> None:
    config = Gemma2Config(hidden_size=64, intermediate_size=96)

    assert isinstance(replace(randomize(Gemma2MLP(config))), NativeGate)


@pytest.mark.parametrize("activation", ["relu", "gelu", "quick_gelu", "relu2", "tanh"])
@pytest.mark.parametrize("scale", [0.01, 0.1, 1.0])
def test_a_layer_with_another_gate_keeps_it(activation: str, scale: float) -> None:
    original = make_mlp(activation, scale=scale)

    kept = replace(original)

    assert kept is original
    assert isinstance(kept.gate_proj, PackedLinear)


class ClampedMLP(LlamaMLP):  # type: ignore[misc]
    """Bounds its gate."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.act_fn(self.gate_proj(x)).clamp(max=7.0)
        return self.down_proj(gate * self.up_proj(x))  # type: ignore[no-any-return]


def test_a_layer_that_does_more_with_its_gate_keeps_it() -> None:
    original = randomize(ClampedMLP(LlamaConfig(hidden_size=64, intermediate_size=96)))

    assert replace(original) is original


class RenamedMLP(LlamaMLP):  # type: ignore[misc]
    """Has its activation under a name of its own."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        del self.act_fn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = F.silu(self.gate_proj(x))
        return self.down_proj(gate * self.up_proj(x))  # type: ignore[no-any-return]


def test_a_layer_whose_activation_is_not_known_keeps_it() -> None:
    original = RenamedMLP(LlamaConfig(hidden_size=64, intermediate_size=96))

    assert replace(randomize(original)) is original


def test_the_transposed_layers_of_gpt2_are_replaced() -> None:
    original = randomize(Conv1D(48, 64))

    native = replace(original)

    assert isinstance(native, PackedLinear)
    assert compare(native, original, 64) < 0.005


def test_parts_of_parts_are_found_and_others_stay() -> None:
    inner = nn.Sequential(nn.Linear(32, 32), nn.LayerNorm(32))
    network = nn.ModuleDict({"embedding": nn.Embedding(10, 32), "inner": inner})

    replaced = replace(network)

    assert replaced is network
    assert [type(part) for part in inner] == [PackedLinear, nn.LayerNorm]
    assert type(network["embedding"]) is nn.Embedding


def test_an_embedding_keeps_the_weight_that_it_shares() -> None:
    embedding, head = nn.Embedding(48, 32), nn.Linear(32, 48)
    head.weight = embedding.weight
    network = nn.ModuleList([embedding, head])
    wanted = embedding.weight.detach().bfloat16()

    replace(network)

    assert isinstance(network[1], PackedLinear)
    assert torch.equal(embedding.weight, wanted)
    assert torch.equal(network[1].weight, wanted)
