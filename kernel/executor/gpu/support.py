"""Whether the Triton ops run on a device, found out by running them, and how many programs fill it.

torch brings triton along in its CUDA builds. Triton compiles at run time and wants a C compiler for
that; where there is none, or the numbers are not right, attention goes on by what torch has.
"""

import importlib.util
import logging
import subprocess

import numpy as np
import torch

from ..attention import Chunk, LayerShape, Step

_log = logging.getLogger(__name__)
_LEAST_CAPABILITY = (8, 0)  # bfloat16 in matrix products, 99 KiB of shared memory
_PROGRAMS_PER_PROCESSOR = 4


def runs_ops(device: torch.device) -> bool:
    """Whether the ops compute what they should on this device."""
    if device.type != "cuda" or torch.version.hip or importlib.util.find_spec("triton") is None:
        return False
    if torch.cuda.get_device_capability(device) < _LEAST_CAPABILITY:
        return False
    try:
        is_right = attends_to_itself(device)
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        _log.warning("attention without Triton, which cannot run here: %s", error)
        return False
    if not is_right:
        _log.warning("attention without Triton, which computes wrong numbers here")
    return is_right


def attends_to_itself(device: torch.device) -> bool:
    """Whether a token that sees itself alone gets its own value. Raises RuntimeError with what
    Triton says where it cannot compile."""
    from triton.errors import TritonError

    from .pool import TritonPool

    size = 16
    pool = TritonPool(
        [LayerShape(1, size, size)],
        num_pages=1,
        page_size=size,
        dtype=torch.float32,
        device=device,
    )
    row = torch.arange(1.0, size + 1, device=device).view(1, 1, 1, size)
    step = Step(pool, np.zeros(1, np.int64), 1, [Chunk(0, 1, 0, np.zeros(1, np.int32))])
    try:
        pool.write(0, row, row, step)
        return torch.equal(pool.attend(0, row, step, 1.0, None, None), row)
    except TritonError as error:
        raise RuntimeError(str(error).strip().partition("\n")[0]) from error


def count_programs(device: torch.device) -> int:
    """How many programs keep a device busy."""
    if device.type != "cuda":
        return 1
    processors: int = torch.cuda.get_device_properties(device).multi_processor_count
    return processors * _PROGRAMS_PER_PROCESSOR
