"""Which device and precision a model runs in, and how much memory its pages may take."""

import torch

from llmos.syscalls.errors import E_MODEL

from ..devices import read_host
from .native.library import has_native_kernels

HOST_SHARE = 0.25
DEVICE_SHARE = 0.85
CACHED_BYTES = 64 << 20
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(wanted: str) -> torch.device:
    """The device of this name; "auto" is CUDA where there is one. Raises E_MODEL."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise E_MODEL("there is no CUDA device here; fix: device = auto or cpu", field="device")
    if wanted.partition(":")[0] not in ("cpu", "cuda"):
        raise E_MODEL(f"unknown device {wanted!r}; known: auto, cpu, cuda", field="device")
    return torch.device(wanted)


def pick_dtype(wanted: str, device: torch.device, weight_bytes: int) -> torch.dtype:
    """The precision of this name; "auto" is bfloat16 where it is faster, else float32.

    It is faster on CUDA, and on a CPU with our kernels for models that exceed its cache.
    """
    if wanted == "auto":
        is_fast = device.type == "cuda" or (weight_bytes > CACHED_BYTES and has_native_kernels())
        return torch.bfloat16 if is_fast else torch.float32
    if wanted not in _DTYPES:
        known = ", ".join(("auto", *_DTYPES))
        raise E_MODEL(f"unknown dtype {wanted!r}; known: {known}", field="dtype")
    return _DTYPES[wanted]


def count_page_bytes(device: torch.device, max_bytes: int | None) -> int:
    """How many bytes the pages may take now: what was granted, or a share of the free memory.

    What a CUDA device has free is known only now that the weights are on it.
    """
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        return int(min(free_bytes * DEVICE_SHARE, free_bytes if max_bytes is None else max_bytes))
    return int(read_host().free_bytes * HOST_SHARE) if max_bytes is None else max_bytes


def count_host_tier_bytes(device: torch.device) -> int:
    """How many bytes of host memory pages may take that the device gave up."""
    return 0 if device.type == "cpu" else int(read_host().free_bytes * HOST_SHARE)
