"""Which device and precision a model runs in, and how much memory its pages may take."""

from dataclasses import dataclass

import torch

from llmos.syscalls.errors import E_MODEL

from ..devices import read_host
from .native.library import NoNativeKernels, has_native_kernels, load_library

HOST_SHARE = 0.25
DEVICE_SHARE = 0.85
_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.int8,
}


def pick_device(wanted: str) -> torch.device:
    """The device of this name; "auto" is CUDA where there is one. Raises E_MODEL."""
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise E_MODEL("there is no CUDA device here; fix: device = auto or cpu", field="device")
    if wanted.startswith("mps") and not torch.backends.mps.is_available():
        raise E_MODEL("there is no Apple GPU here; fix: device = auto or cpu", field="device")
    if wanted.partition(":")[0] not in ("cpu", "cuda", "mps"):
        raise E_MODEL(f"unknown device {wanted!r}; known: auto, cpu, cuda, mps", field="device")
    return torch.device(wanted)


def pick_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """The weights' precision of this name; "auto" is bfloat16 where it is faster, else float32.

    It is faster on CUDA, and on a CPU with our kernels, which alone take int8. Raises E_MODEL.
    """
    if wanted == "auto":
        if device.type == "cuda":
            is_fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            is_fast = device.type == "cpu" and has_native_kernels()
        return torch.bfloat16 if is_fast else torch.float32
    if wanted not in _DTYPES:
        known = ", ".join(("auto", *_DTYPES))
        raise E_MODEL(f"unknown dtype {wanted!r}; known: {known}", field="dtype")
    if wanted == "int8":
        _check_int8(device)
    return _DTYPES[wanted]


def _check_int8(device: torch.device) -> None:
    if device.type != "cpu":
        reason = f"int8 weights run on a CPU alone, not on {device}"
        raise E_MODEL(f"{reason}; fix: device = cpu, or dtype = auto", field="dtype")
    try:
        load_library()
    except NoNativeKernels as error:
        reason, _, fix = str(error).partition("; fix: ")
        fixes = f"{fix}, or dtype = auto" if fix else "dtype = auto"
        reason = f"int8 weights need the compiled kernels: {reason}"
        raise E_MODEL(f"{reason}; fix: {fixes}", field="dtype") from None


@dataclass(frozen=True)
class StepLimits:
    """How many sequences run at once, and how many tokens a step has."""

    max_running: int
    max_tokens: int


def pick_step_limits(
    device: torch.device, max_running: int | None = None, max_tokens: int | None = None
) -> StepLimits:
    """What is wanted, else enough to keep the device busy with no step so long that those who
    decode wait for it."""
    usual = StepLimits(256, 1024) if device.type == "cuda" else StepLimits(64, 512)
    return StepLimits(max_running or usual.max_running, max_tokens or usual.max_tokens)


def count_page_bytes(device: torch.device, max_bytes: int | None, step_bytes: int = 0) -> int:
    """How many bytes the pages may take now: what was granted, or a share of the free memory.

    What a CUDA device has free is known only now that the weights are on it; a step needs
    `step_bytes` of it.
    """
    if device.type == "cuda":
        free_bytes, _ = torch.cuda.mem_get_info(device)
        left_bytes = max(free_bytes - step_bytes, 0)
        return int(min(left_bytes * DEVICE_SHARE, left_bytes if max_bytes is None else max_bytes))
    return int(read_host().free_bytes * HOST_SHARE) if max_bytes is None else max_bytes


def count_host_tier_bytes(device: torch.device) -> int:
    """How many bytes of host memory pages may take that the device gave up."""
    if device.type != "cuda":
        return 0  # its memory is the host's own
    return int(read_host().free_bytes * HOST_SHARE)
