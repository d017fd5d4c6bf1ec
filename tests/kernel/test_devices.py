"""Devices: GPUs as NVML tells of them, and what control groups leave of the host's memory."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmos.kernel.devices import (
    count_private_bytes,
    find_devices,
    find_gpus,
    has_bfloat16,
    read_gpus,
    read_host,
)

MIB = 1 << 20


class NoSuchGpu(Exception):
    """As NVML raises."""


class Nvml:
    """NVML's functions on three GPUs, by index and by UUID."""

    NVMLError = NoSuchGpu
    names = ("A100", "V100", "H100")

    def nvmlDeviceGetCount(self) -> int:
        return len(self.names)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index >= len(self.names):
            raise NoSuchGpu
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        if not uuid.startswith("GPU-"):
            raise NoSuchGpu
        return self.names.index(uuid.removeprefix("GPU-"))

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(total=80 * MIB, free=(70 + handle) * MIB)

    def nvmlDeviceGetName(self, handle: int) -> str:
        return self.names[handle]

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> list[int]:
        return [7, 0] if self.names[handle] == "V100" else [8, 0]


@pytest.mark.parametrize(
    ("visible", "titles"),
    [
        (None, ["A100", "V100", "H100"]),
        ("2,0", ["H100", "A100"]),
        ("GPU-V100", ["V100"]),
        ("1, 7, 0", ["V100"]),  # CUDA, too, ends at the first that is not there
        ("", []),
        ("-1", []),
    ],
)
def test_gpus_are_those_that_cuda_would_show_in_its_order(
    visible: str | None, titles: list[str]
) -> None:
    gpus = read_gpus(Nvml(), visible)

    assert [gpu.title for gpu in gpus] == titles
    assert [gpu.name for gpu in gpus] == [f"cuda:{number}" for number in range(len(gpus))]


def test_a_gpu_has_its_memory_and_its_precision() -> None:
    _, old, new = read_gpus(Nvml(), None)

    assert (old.total_bytes, old.free_bytes, old.has_bfloat16) == (80 * MIB, 71 * MIB, False)
    assert (new.free_bytes, new.has_bfloat16) == (72 * MIB, True)


def test_where_torch_has_no_cuda_or_there_is_no_driver_there_are_no_gpus() -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU")
    assert find_gpus(os.environ) == ()
    assert [device.name for device in find_devices()] == ["cpu"]


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_without_control_groups_the_host_has_what_the_system_says(tmp_path: Path) -> None:
    host = read_host(tmp_path, tmp_path / "membership")

    assert (host.name, host.title) == ("cpu", "host memory")
    assert MIB < host.free_bytes <= host.total_bytes
    assert host.total_bytes == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_the_tightest_control_group_above_the_process_counts(tmp_path: Path) -> None:
    (tmp_path / "membership").write_text("0::/outer/inner\n")
    stat = f"anon 1\ninactive_file {10 * MIB}\n"
    write(tmp_path / "outer", memory__max=f"{100 * MIB}\n", memory__current=f"{70 * MIB}\n")
    write(tmp_path / "outer", memory__stat=stat)
    write(tmp_path / "outer/inner", memory__max="max\n", memory__current="5\n", memory__stat=stat)

    host = read_host(tmp_path, tmp_path / "membership")

    assert (host.total_bytes, host.free_bytes) == (100 * MIB, 40 * MIB)


def test_control_groups_of_the_first_kind_count_too(tmp_path: Path) -> None:
    (tmp_path / "membership").write_text("4:cpu,memory:/box\n0::/\n")
    write(
        tmp_path / "memory/box",
        memory__limit_in_bytes=f"{64 * MIB}",
        memory__usage_in_bytes=f"{80 * MIB}",
        memory__stat="total_inactive_file 0\n",
    )

    host = read_host(tmp_path, tmp_path / "membership")

    assert (host.total_bytes, host.free_bytes) == (64 * MIB, 0)


def test_a_group_that_is_not_visible_in_a_container_is_found_at_its_root(tmp_path: Path) -> None:
    (tmp_path / "membership").write_text("0::/not/shown/here\n")
    write(tmp_path, memory__max=f"{32 * MIB}", memory__current="0", memory__stat="")

    assert read_host(tmp_path, tmp_path / "membership").total_bytes == 32 * MIB


def test_the_processor_is_asked_for_its_precision(tmp_path: Path) -> None:
    flags = "fpu avx avx2 fma"
    (tmp_path / "new").write_text(f"processor : 0\nflags\t\t: {flags}\n")
    (tmp_path / "old").write_text("processor : 0\nflags\t\t: fpu sse2\n")

    assert not has_bfloat16(tmp_path / "old")
    assert not has_bfloat16(tmp_path / "no Linux")
    assert has_bfloat16(tmp_path / "new")


def test_a_process_has_taken_what_is_its_own() -> None:
    before = count_private_bytes(os.getpid())

    block = bytearray(os.urandom(1)) * (64 * MIB)

    assert count_private_bytes(os.getpid()) - before > 32 * MIB
    assert len(block) == 64 * MIB
    assert count_private_bytes(2**22 + 1) == 0  # there is no such process
