"""The compiled kernels: built once by the machine's C compiler, kept in the user's cache folder.

There is none where the processor lacks AVX-512 bf16, where no compiler is found, or where it
fails; the engine then computes by torch. A compiled file ends in a digest of what is before it:
to load one that was cut short would end the process. OpenMP's threads are torch's: both ask for
the same shared library, which is loaded once.
"""

import ctypes
import functools
import hashlib
import mmap
import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import platformdirs
import torch

_FOLDER = Path(__file__).parent
_SOURCES = ("linear.c", "attention.c", "pointwise.c")
_PROCESSOR_FLAGS = {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_bf16", "fma"}
_COMPILER_FLAGS = (
    "-O3", "-shared", "-fPIC", "-fopenmp", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl",
    "-mavx512bf16", "-mfma", "-ffp-contract=off",
)  # fmt: skip
_COMPILE_SECONDS = 120
_DIGEST_BYTES = 16
_HUGE_PAGE_BYTES = 2 << 20
_POINTER, _LONG, _DOUBLE = ctypes.c_void_p, ctypes.c_long, ctypes.c_double
_PROTOTYPES = {
    "llmos_pack": [_POINTER, _POINTER, _LONG, _LONG],
    "llmos_linear": [_POINTER, _POINTER, _POINTER, _POINTER, _LONG, _LONG, _LONG],
    "llmos_write": [_POINTER, _POINTER, *[_LONG] * 4, _POINTER, *[_LONG] * 4, _POINTER, _POINTER],
    "llmos_attend": [_POINTER],
    "llmos_rms_norm": [_POINTER, _POINTER, _POINTER, _LONG, _LONG, _DOUBLE],
    "llmos_rotate": [_POINTER, _LONG, _LONG, _POINTER, _POINTER, _LONG, _LONG, _LONG],
    "llmos_gate": [_POINTER, _POINTER, _POINTER, _LONG, _DOUBLE, _DOUBLE],
}


class NoNativeKernels(Exception):
    """Why there are no compiled kernels, in a line."""


@functools.cache
def compute_digest() -> str:
    """A digest of sources and flags: equal digests compute equal numbers."""
    digest = hashlib.blake2b(" ".join(_COMPILER_FLAGS).encode(), digest_size=8)
    for name in ("kernels.h", *_SOURCES):
        digest.update((_FOLDER / name).read_bytes())
    return digest.hexdigest()


@functools.cache
def load_library() -> ctypes.CDLL:
    """The kernels, compiled if they are not in the cache. Raises NoNativeKernels."""
    check_processor()
    path = platformdirs.user_cache_path("llmos") / f"kernels-{compute_digest()}.so"
    if not _is_whole(path):
        _compile(path)
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise NoNativeKernels(f"{path} cannot be loaded: {error}") from None
    for name, arguments in _PROTOTYPES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, None
    return library


@functools.cache
def has_native_kernels() -> bool:
    """Whether this machine has compiled kernels or can make them."""
    try:
        load_library()
    except NoNativeKernels:
        return False
    return True


def check_processor() -> None:
    """Raises NoNativeKernels where the processor lacks an instruction that the kernels use."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        raise NoNativeKernels("what the processor can do is not known here") from None
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    if missing := sorted(_PROCESSOR_FLAGS - set(flags.split())):
        raise NoNativeKernels(f"the processor has no {', '.join(missing)}")


def _is_whole(path: Path) -> bool:
    try:
        data = path.read_bytes()
    except OSError:
        return False
    return data[-_DIGEST_BYTES:] == _sign(data[:-_DIGEST_BYTES])


def _sign(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


def _compile(path: Path) -> None:
    compiler = next(filter(None, map(shutil.which, ("gcc", "cc"))), None)
    if compiler is None:
        raise NoNativeKernels("no C compiler is found; fix: install gcc")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            scratch = Path(folder) / path.name
            command = [compiler, *_COMPILER_FLAGS, "-o", str(scratch), *_SOURCES, "-lm"]
            subprocess.run(
                command, cwd=_FOLDER, check=True, capture_output=True, timeout=_COMPILE_SECONDS
            )
            with scratch.open("r+b") as file:
                file.write(_sign(file.read()))
            os.replace(scratch, path)  # two executors that compile at once agree
    except (OSError, subprocess.SubprocessError) as error:
        output = getattr(error, "stderr", None) or b""
        reason = output.decode(errors="replace").strip().partition("\n")[0] or str(error)
        raise NoNativeKernels(f"the kernels cannot be compiled: {reason[:300]}") from None


def allocate_host(num_elements: int) -> torch.Tensor:
    """Zeros in bfloat16 on huge pages, which are taken from the system when first written.

    Weights and pages are read all over at every step: with small pages the processor spends a
    good part of its time on finding them.
    """
    num_bytes = max(num_elements * 2, 1)
    memory = mmap.mmap(
        -1, num_bytes + _HUGE_PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    )
    if num_bytes >= _HUGE_PAGE_BYTES:
        with suppress(OSError):  # a system may have none
            memory.madvise(mmap.MADV_HUGEPAGE)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(memory)) % _HUGE_PAGE_BYTES
    return torch.frombuffer(memory, dtype=torch.bfloat16, count=num_elements, offset=start)
