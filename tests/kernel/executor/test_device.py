"""Which devices and precisions there are, and how much of a device the pages get."""

import pytest
import torch

from llmos.kernel.executor.device import (
    StepLimits,
    count_host_tier_bytes,
    count_page_bytes,
    pick_device,
    pick_dtype,
    pick_step_limits,
)
from llmos.syscalls.errors import E_MODEL

CPU, MPS = torch.device("cpu"), torch.device("mps")


def test_a_device_that_runs_through_torch_is_known() -> None:
    assert pick_device("cpu") == CPU
    if torch.backends.mps.is_available():
        assert pick_device("mps") == MPS


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without an NVIDIA GPU")
def test_without_an_nvidia_gpu_the_fix_is_told(name: str) -> None:
    with pytest.raises(E_MODEL, match="no CUDA device here; fix: device = auto or cpu"):
        pick_device(name)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="needs a machine without Apple's GPU")
def test_without_an_apple_gpu_the_fix_is_told() -> None:
    with pytest.raises(E_MODEL, match="no Apple GPU here; fix: device = auto or cpu"):
        pick_device("mps")


@pytest.mark.parametrize("name", ["xpu", "meta", "npu:0", "abacus", ""])
def test_what_is_not_known_is_refused_with_what_is(name: str) -> None:
    with pytest.raises(E_MODEL, match="known: auto, cpu, cuda, mps"):
        pick_device(name)


def test_an_apple_gpu_computes_in_float32_unless_it_is_told_otherwise() -> None:
    assert pick_dtype("auto", MPS) == torch.float32
    assert pick_dtype("float16", MPS) == torch.float16


def test_a_device_whose_memory_is_the_host_s_has_no_tier_there() -> None:
    assert count_host_tier_bytes(CPU) == count_host_tier_bytes(MPS) == 0


def test_a_device_with_more_room_runs_more_at_once() -> None:
    gpu, cpu = pick_step_limits(torch.device("cuda")), pick_step_limits(CPU)

    assert gpu.max_running > cpu.max_running
    assert gpu.max_tokens > cpu.max_tokens > cpu.max_running
    assert pick_step_limits(CPU, 3, 17) == StepLimits(3, 17)


def test_pages_get_a_share_of_what_is_free() -> None:
    assert 1 << 20 < count_page_bytes(CPU, None) < 1 << 45
