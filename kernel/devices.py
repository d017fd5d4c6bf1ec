"""Which devices there are, and how much of their memory is there to use.

The host's memory is what the system has, or what the control groups around this process leave of
it: inside a container the system speaks of the whole machine. GPUs are those that NVML knows and
`CUDA_VISIBLE_DEVICES` lets through, in the order of their bus addresses; executors number them the
same way. Where there is no driver, or torch is a build without CUDA, there are none.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

HOST = "cpu"
_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
CPUINFO = Path("/proc/cpuinfo")
COMPILERS = ("gcc", "cc")  # of the executor's kernels
KERNEL_FLAGS = frozenset({"avx2", "fma"})  # the least that they need of a processor
_LANES = 16
_MAX_DIM = 512
_BFLOAT16_CAPABILITY = (8, 0)


class Device(msgspec.Struct, frozen=True):
    """`name` is torch's name of it; `free_bytes` is a moment's value.

    `has_bfloat16` says whether it computes in that precision itself.
    """

    name: str
    title: str
    total_bytes: int
    free_bytes: int
    has_bfloat16: bool = True


class Holding(msgspec.Struct, frozen=True):
    """What a model that is loaded, or about to be, has on a device.

    Of `granted_bytes` it has taken `taken_bytes` so far. With no users it may leave.
    """

    model: str
    device: str
    granted_bytes: int
    taken_bytes: int
    num_users: int
    idle_seconds: float = 0.0


def find_devices() -> tuple[Device, ...]:
    """The GPUs, then the host."""
    return (*find_gpus(os.environ), read_host())


def read_host(
    cgroups: Path = _CGROUPS, membership: Path = _MEMBERSHIP, cpuinfo: Path = CPUINFO
) -> Device:
    """The host's memory, as far as this process may use it."""
    import psutil  # 10 ms that the kernel's start need not pay

    memory = psutil.virtual_memory()
    rooms = list(_read_rooms(cgroups, membership))
    return Device(
        HOST,
        "host memory",
        min([memory.total, *(limit for limit, _ in rooms)]),
        min([memory.available, *(free for _, free in rooms)]),
        has_bfloat16(cpuinfo),
    )


def has_bfloat16(cpuinfo: Path) -> bool:
    """Whether there is what the executor's compiled bfloat16 kernels need, a compiler too."""
    return KERNEL_FLAGS <= read_processor_flags(cpuinfo) and any(map(shutil.which, COMPILERS))


def read_processor_flags(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """What the processor can do, as Linux names it; nothing where that is not known."""
    try:
        text = cpuinfo.read_text(encoding="ascii", errors="replace")
    except OSError:
        return frozenset()
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return frozenset(flags.split())


def fits_kernels(key_dim: int, value_dim: int) -> bool:
    """Whether the executor's kernels read heads of so many numbers; 0 is not known."""
    is_even = key_dim % 2 == 0 and value_dim % _LANES == 0
    return is_even and 0 < min(key_dim, value_dim) and max(key_dim, value_dim) <= _MAX_DIM


def _read_rooms(cgroups: Path, membership: Path) -> Iterator[tuple[int, int]]:
    """Limit and what is free below it, of every control group that this process is in."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, files = cgroups, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = cgroups / "memory"
            files = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        group = root / path.strip("/")
        for folder in (group, *group.parents):
            if room := _read_room(folder, *files):
                yield room
            if folder == root:
                break


def _read_room(folder: Path, limit: str, usage: str, cache: str) -> tuple[int, int] | None:
    """One group's limit and what is free; None if it has no limit.

    Files that were read long ago count as used there, and yet are given back on demand.
    """
    try:
        limit_bytes = int((folder / limit).read_text())
        used_bytes = int((folder / usage).read_text())
        facts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # not there, not visible in a container, or "max"
        return None
    return limit_bytes, max(0, limit_bytes - used_bytes + int(facts.get(cache, 0)))


def count_private_bytes(process_id: int) -> int:
    """The memory that a process has taken for itself alone, weights that it only maps aside."""
    import psutil

    try:
        memory = psutil.Process(process_id).memory_info()
    except psutil.Error:
        return 0
    return int(memory.rss - getattr(memory, "shared", 0))


def find_gpus(environ: Mapping[str, str]) -> tuple[Device, ...]:
    """The GPUs that torch would use, numbered as torch numbers them."""
    if not _has_cuda_build():
        return ()
    try:
        import pynvml
    except ModuleNotFoundError:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        return read_gpus(pynvml, environ.get("CUDA_VISIBLE_DEVICES"))
    finally:
        pynvml.nvmlShutdown()


def _has_cuda_build() -> bool:
    try:
        return not version("torch").endswith("+cpu")
    except PackageNotFoundError:
        return False


def read_gpus(nvml: Any, visible: str | None) -> tuple[Device, ...]:
    """The GPUs that an initialized NVML knows; of a list of visible ones those before the first
    that is not there, which is how CUDA reads the list."""
    devices: list[Device] = []
    words = map(str, range(nvml.nvmlDeviceGetCount())) if visible is None else visible.split(",")
    for number, word in enumerate(words):
        try:
            handle = _find_gpu(nvml, word.strip())
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            title = str(nvml.nvmlDeviceGetName(handle))
            capability = tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle))
        except nvml.NVMLError:
            break
        is_fast = capability >= _BFLOAT16_CAPABILITY
        total_bytes, free_bytes = int(memory.total), int(memory.free)
        devices.append(Device(f"cuda:{number}", title, total_bytes, free_bytes, is_fast))
    return tuple(devices)


def _find_gpu(nvml: Any, word: str) -> Any:
    if word.isdecimal():
        return nvml.nvmlDeviceGetHandleByIndex(int(word))
    return nvml.nvmlDeviceGetHandleByUUID(word)
