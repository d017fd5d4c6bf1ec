"""Parts of a network on the compiled kernels, put in the place of transformers' own.

Linear layers are known by their class. Norms and gated feed-forward layers are known by their
form, and proved: a part is replaced only if it answers random input as the original does.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.pytorch_utils import Conv1D

from .library import LANES, allocate_host, load_library

_OUTPUTS = 64  # the packed ones are a multiple
_TOLERANCE = 0.02  # of the norm of a row's answer: bfloat16 rounds each step by up to 0.004
_NUM_ROWS = 8
_GATE_PARTS = ("gate_proj", "up_proj", "down_proj")
GATES: tuple[tuple[Callable[[torch.Tensor], torch.Tensor], tuple[float, float]], ...] = (
    # of a gate g: g x sigmoid(factor x g (1 + cubic x g^2))
    (F.silu, (1.0, 0.0)),
    (partial(F.gelu, approximate="tanh"), (2 * math.sqrt(2 / math.pi), 0.044715)),
)


class PackedLinear(nn.Module):
    """What nn.Linear does, in bfloat16, on weights in the kernel's order.

    The weights may be kept in int8, in steps of a 127th of the greatest of each output: `scales`.
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, *, is_int8: bool = False
    ) -> None:
        """`weight` is [outputs, inputs] in bfloat16, the number of inputs even."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        weight = weight.detach().contiguous()
        self._library = load_library()
        num_packed = -(-self.out_features // _OUTPUTS) * _OUTPUTS * self.in_features
        self.packed = allocate_host(num_packed, torch.int8 if is_int8 else torch.bfloat16)
        self.scales = torch.empty(self.out_features) if is_int8 else None
        self._library.llmos_pack(
            weight.data_ptr(), self.packed.data_ptr(), _point_to(self.scales),
            self.out_features, self.in_features,
        )  # fmt: skip
        self.bias = None if bias is None else bias.detach().float().contiguous()
        self._pointers = self.packed.data_ptr(), _point_to(self.scales), _point_to(self.bias)

    @property
    def weight(self) -> torch.Tensor:
        """A copy of the weights as nn.Linear has them, for models that look at them."""
        width, num_pairs = self._library.outputs_side_by_side, self.in_features // 2
        if self.scales is None:
            by_output = self.packed.view(-1, num_pairs, width, 2).transpose(1, 2)
        else:
            columns = self.packed.view(-1, num_pairs, width // LANES, 2, LANES)
            by_output = columns.permute(0, 2, 4, 1, 3)
        weight = by_output.reshape(-1, self.in_features)[: self.out_features]
        return weight if self.scales is None else (weight * self.scales.unsqueeze(1)).bfloat16()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., inputs] to [..., outputs]."""
        if x.dtype != torch.bfloat16 or x.shape[-1] != self.in_features:
            raise TypeError(f"{x.dtype} {tuple(x.shape)} is no bfloat16 [..., {self.in_features}]")
        x = x.contiguous()
        out = x.new_empty(*x.shape[:-1], self.out_features)
        self._library.llmos_linear(
            x.data_ptr(), *self._pointers, out.data_ptr(),
            x.numel() // self.in_features, self.in_features, self.out_features,
        )  # fmt: skip
        return out


def _point_to(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


class NativeNorm(nn.Module):
    """Normalization by the root mean square of the last dimension, a multiple of 16."""

    def __init__(self, scale: torch.Tensor, epsilon: float) -> None:
        super().__init__()
        self._library = load_library()
        self.scale = scale.detach().float().contiguous()
        self._epsilon = epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., dim] to the same."""
        if x.dtype != torch.bfloat16:
            return self.forward(x.bfloat16()).to(x.dtype)
        x = x.contiguous()
        out = torch.empty_like(x)
        dim = len(self.scale)
        self._library.llmos_rms_norm(
            x.data_ptr(), self.scale.data_ptr(), out.data_ptr(), x.numel() // dim, dim,
            self._epsilon,
        )  # fmt: skip
        return out


class NativeGate(nn.Module):
    """A gated feed-forward layer; the number of its inner dimensions is a multiple of 16."""

    def __init__(self, original: Any, gate: tuple[float, float], *, is_int8: bool = False) -> None:
        super().__init__()
        self._library = load_library()
        self.gate_proj, self.up_proj, self.down_proj = (
            PackedLinear(part.weight, part.bias, is_int8=is_int8)
            for part in (getattr(original, name) for name in _GATE_PARTS)
        )
        self._gate = gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., dim] to the same."""
        gate, up = self.gate_proj(x), self.up_proj(x)
        self._library.llmos_gate(
            gate.data_ptr(), up.data_ptr(), gate.data_ptr(), gate.numel(), *self._gate
        )
        result: torch.Tensor = self.down_proj(gate)
        return result


@torch.inference_mode()
def replace_modules(network: Any, *, is_int8: bool = False) -> None:
    """Put native parts in the place of the network's own, one by one; linear layers may be int8.

    A weight that an embedding shares stays for the embedding's sake.
    """
    for name, child in list(network.named_children()):
        if replacement := _replace(child, is_int8=is_int8):
            setattr(network, name, replacement)
        else:
            replace_modules(child, is_int8=is_int8)


def _replace(module: Any, *, is_int8: bool) -> nn.Module | None:
    kind = type(module)
    if kind is nn.Linear and _can_pack(module.weight, module.in_features):
        return PackedLinear(module.weight, module.bias, is_int8=is_int8)
    if kind is Conv1D and _can_pack(module.weight, module.weight.shape[0]):
        return PackedLinear(module.weight.T, module.bias, is_int8=is_int8)
    if kind.__name__.endswith("RMSNorm"):
        return _replace_norm(module)
    parts = [getattr(module, name, None) for name in _GATE_PARTS]
    if all(type(part) is nn.Linear and part.in_features % LANES == 0 for part in parts):
        return _replace_gate(module, is_int8=is_int8)
    return None


def _can_pack(weight: torch.Tensor, num_inputs: int) -> bool:
    return weight.dtype == torch.bfloat16 and num_inputs % 2 == 0


def _replace_norm(module: Any) -> nn.Module | None:
    """Proved on rows of many sizes, so that epsilon counts, and with a mean that is not 0."""
    weight = getattr(module, "weight", None)
    if weight is None or weight.ndim != 1 or len(weight) % LANES:
        return None
    epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", 1e-6))
    x = (_draw(len(weight)) + 1) * torch.logspace(-4, 2, _NUM_ROWS).unsqueeze(1)
    for scale in (weight.float(), weight.float() + 1):  # Gemma's weights start at 0
        native = NativeNorm(scale, epsilon)
        if _answers_alike(module, native, x):
            return native
    return None


def _replace_gate(module: Any, *, is_int8: bool) -> nn.Module | None:
    """The activation is known by its values; the rest is proved, on gates of many sizes, and with
    the weights as they are: int8 is too far from them to prove anything."""
    gate = _find_gate(getattr(module, "act_fn", None))
    if gate is None or not _can_pack(module.gate_proj.weight, module.gate_proj.in_features):
        return None
    x = _draw(module.gate_proj.in_features)
    spread = module.gate_proj(x.bfloat16()).float().square().mean().sqrt().clamp(min=1e-6)
    x *= torch.logspace(-1, 1.5, _NUM_ROWS).unsqueeze(1) / spread
    native = NativeGate(module, gate)
    if not _answers_alike(module, native, x):
        return None
    return NativeGate(module, gate, is_int8=True) if is_int8 else native


def _find_gate(activation: Any) -> tuple[float, float] | None:
    x = torch.linspace(-10, 10, 1001)
    found = _ask(activation, x)
    for function, gate in GATES:
        if found is not None and torch.allclose(found, function(x), rtol=0, atol=1e-5):
            return gate
    return None


def _draw(dim: int) -> torch.Tensor:
    return torch.randn(_NUM_ROWS, dim, generator=torch.Generator().manual_seed(0))


def _answers_alike(original: nn.Module, native: nn.Module, x: torch.Tensor) -> bool:
    """Whether every row is answered alike, in bfloat16."""
    x = x.bfloat16().unsqueeze(0)
    wanted = _ask(original, x)
    if wanted is None or wanted.dtype != torch.bfloat16:
        return False
    distance = (native(x).float() - wanted.float()).norm(dim=-1)
    return bool((distance <= _TOLERANCE * wanted.float().norm(dim=-1)).all())


def _ask(part: Any, x: torch.Tensor) -> torch.Tensor | None:
    """A part's answer, if it takes just x and gives just one tensor."""
    try:
        answer = part(x)
    except (TypeError, ValueError, RuntimeError, AttributeError):
        return None
    return answer if isinstance(answer, torch.Tensor) else None
