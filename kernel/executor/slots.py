"""Keys and values of every slot in torch's own tensors, for the pools that compute over these."""

from collections.abc import Sequence

import numpy as np
import torch

from .attention import LayerShape, Step


class SlotPool:
    """Per layer, keys and values of every slot: [slots, heads, dim], zeros at first."""

    def __init__(
        self,
        layers: Sequence[LayerShape],
        *,
        num_pages: int,
        page_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.page_size = page_size
        self._layers, self._dtype, self._device = layers, dtype, device
        slots = num_pages * page_size

        def make_zeros(num_heads: int, dim: int) -> torch.Tensor:
            return _make_zeros((slots, num_heads, dim), dtype, device)

        self.keys = [make_zeros(one.num_heads, one.key_dim) for one in layers]
        self.values = [make_zeros(one.num_heads, one.value_dim) for one in layers]
        self.resize(num_pages)

    def resize(self, num_pages: int) -> None:
        """`keys` and `values` have so many pages now; what was known of a step is forgotten."""
        self.num_pages = num_pages
        self._step: Step | None = None


def _make_zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros. On the host the memory is untouched until used."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    numbers = np.zeros(shape, np.float32 if dtype.itemsize == 4 else np.int16)
    return torch.from_numpy(numbers).view(dtype)
