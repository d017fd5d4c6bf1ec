"""The compiled kernels: built once by the machine's C compiler, kept in the user's cache folder.

They are compiled for the best set of instructions that the processor has. There is none where it
has no AVX2, where no compiler is found, or where it fails; the engine then computes by torch. A
compiled file ends in a digest of what is before it: to load one that was cut short would end the
process. OpenMP's threads are torch's: both ask for the same shared library, which is loaded once.
"""

import ctypes
import functools
import hashlib
import mmap
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs
import torch

from ...devices import COMPILERS, KERNEL_FLAGS, read_processor_flags

_FOLDER = Path(__file__).parent
_SOURCES = ("linear.c", "attention.c", "pointwise.c", "replay.c")
_HEADERS = ("kernels.h", "avx512.h", "avx2.h")
_COMPILER_FLAGS = ("-O3", "-shared", "-fPIC", "-fopenmp", "-ffp-contract=off")
_COMPILE_SECONDS = 120
_DIGEST_BYTES = 16
_HUGE_PAGE_BYTES = 2 << 20
LANES = 16  # numbers that the kernels take at once
POINTER, _LONG, _DOUBLE = ctypes.c_void_p, ctypes.c_long, ctypes.c_double
PROTOTYPES: dict[str, list[Any]] = {
    "llmos_pack": [POINTER, POINTER, POINTER, _LONG, _LONG],
    "llmos_linear": [*[POINTER] * 5, _LONG, _LONG, _LONG],
    "llmos_write": [POINTER, POINTER, *[_LONG] * 4, POINTER, *[_LONG] * 4, POINTER, POINTER],
    "llmos_attend": [
        *(POINTER, _LONG, _LONG, POINTER, POINTER, POINTER, *[_LONG] * 5, *[POINTER] * 4),
        *(_DOUBLE, _DOUBLE, _LONG),
    ],
    "llmos_rms_norm": [POINTER, POINTER, POINTER, _LONG, _LONG, _DOUBLE],
    "llmos_rotate": [POINTER, _LONG, _LONG, POINTER, POINTER, _LONG, _LONG, _LONG],
    "llmos_gate": [POINTER, POINTER, POINTER, _LONG, _DOUBLE, _DOUBLE],
    "llmos_add": [POINTER, POINTER, POINTER, _LONG],
    "llmos_replay": [POINTER, _LONG],
}


class NoNativeKernels(Exception):
    """Why there are no compiled kernels, in a line."""


@dataclass(frozen=True)
class Instructions:
    """A set of instructions that the kernels can be compiled for."""

    name: str
    processor_flags: frozenset[str]  # as Linux names them
    compiler_flags: tuple[str, ...]


AVX512_BF16 = Instructions(
    "AVX-512 bf16",
    frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_bf16", "fma"}),
    ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16", "-mfma"),
)
AVX2 = Instructions("AVX2", KERNEL_FLAGS, ("-mavx2", "-mfma"))
_candidates: tuple[Instructions, ...] = (AVX512_BF16, AVX2)  # the best first


@contextmanager
def limited_to(*candidates: Instructions) -> Iterator[None]:
    """Compute by the first of these inside, though the processor may have a better set."""
    global _candidates
    before, _candidates = _candidates, candidates
    try:
        yield
    finally:
        _candidates = before


def list_instructions() -> list[Instructions]:
    """The sets that the processor has, the best first. Raises NoNativeKernels if none."""
    flags = read_processor_flags()
    if found := [one for one in _candidates if one.processor_flags <= flags]:
        return found
    if not flags:
        raise NoNativeKernels("what the processor can do is not known here")
    missing = sorted(_candidates[-1].processor_flags - flags)
    raise NoNativeKernels(f"the processor has no {', '.join(missing)}")


@functools.cache
def compute_digest(instructions: Instructions) -> str:
    """A digest of sources and flags: equal digests compute equal numbers."""
    flags = (*_COMPILER_FLAGS, *instructions.compiler_flags)
    digest = hashlib.blake2b(" ".join(flags).encode(), digest_size=8)
    for name in (*_HEADERS, *_SOURCES):
        digest.update((_FOLDER / name).read_bytes())
    return digest.hexdigest()


Listener = Callable[[str, tuple[Any, ...]], None]


class Library:
    """The compiled functions, by their names. No two threads call them at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        loaded = ctypes.CDLL(str(path))
        self.outputs_side_by_side = ctypes.c_long.in_dll(loaded, "llmos_side_by_side").value
        self._functions = {name: getattr(loaded, name) for name in PROTOTYPES}
        for name, function in self._functions.items():
            function.argtypes, function.restype = PROTOTYPES[name], None
            setattr(self, name, function)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Callable[..., None]: ...

    def find_address(self, name: str) -> int:
        """Where a function is."""
        return ctypes.cast(self._functions[name], POINTER).value or 0

    @contextmanager
    def heard_by(self, listener: Listener) -> Iterator[None]:
        """Tell the listener of every call that is made inside, once it has been made."""

        def call(name: str, *arguments: Any) -> None:
            self._functions[name](*arguments)
            listener(name, arguments)

        for name in self._functions:
            setattr(self, name, functools.partial(call, name))
        try:
            yield
        finally:
            vars(self).update(self._functions)


def load_library() -> Library:
    """The kernels, compiled if they are not in the cache. Raises NoNativeKernels."""
    return load_for(list_instructions()[0])


@functools.cache
def load_for(instructions: Instructions) -> Library:
    """The kernels for these instructions, which the processor has. Raises NoNativeKernels."""
    path = platformdirs.user_cache_path("llmos") / f"kernels-{compute_digest(instructions)}.so"
    if not _is_whole(path):
        _compile(path, instructions)
    try:
        return Library(path)
    except OSError as error:
        raise NoNativeKernels(f"{path} cannot be loaded: {error}") from None


def has_native_kernels() -> bool:
    """Whether this machine has compiled kernels or can make them."""
    try:
        load_library()
    except NoNativeKernels:
        return False
    return True


def _is_whole(path: Path) -> bool:
    try:
        data = path.read_bytes()
    except OSError:
        return False
    return data[-_DIGEST_BYTES:] == _sign(data[:-_DIGEST_BYTES])


def _sign(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


def _compile(path: Path, instructions: Instructions) -> None:
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise NoNativeKernels("no C compiler is found; fix: install gcc")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            scratch = Path(folder) / path.name
            flags = (*_COMPILER_FLAGS, *instructions.compiler_flags)
            command = [compiler, *flags, "-o", str(scratch), *_SOURCES, "-lm"]
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


def allocate_host(num_elements: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """Zeros on huge pages, which are taken from the system when first written.

    Weights and pages are read all over at every step: with small pages the processor spends a
    good part of its time on finding them.
    """
    num_bytes = max(num_elements * dtype.itemsize, 1)
    memory = mmap.mmap(
        -1, num_bytes + _HUGE_PAGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    )
    if num_bytes >= _HUGE_PAGE_BYTES:
        with suppress(OSError):  # a system may have none
            memory.madvise(mmap.MADV_HUGEPAGE)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(memory)) % _HUGE_PAGE_BYTES
    return torch.frombuffer(memory, dtype=dtype, count=num_elements, offset=start)
