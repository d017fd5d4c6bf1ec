"""Whether this machine can have the compiled kernels. Imports no torch: the kernel may ask."""

import shutil
from pathlib import Path

_PROCESSOR_FLAGS = {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_bf16", "fma"}


class NoNativeKernels(Exception):
    """Why there are no compiled kernels, in a line."""


def check_processor() -> None:
    """Raises NoNativeKernels where the processor lacks an instruction that the kernels use."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        raise NoNativeKernels("what the processor can do is not known here") from None
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    if missing := sorted(_PROCESSOR_FLAGS - set(flags.split())):
        raise NoNativeKernels(f"the processor has no {', '.join(missing)}")


def find_compiler() -> str:
    """The machine's C compiler. Raises NoNativeKernels."""
    compiler = next(filter(None, map(shutil.which, ("gcc", "cc"))), None)
    if compiler is None:
        raise NoNativeKernels("no C compiler is found; fix: install gcc")
    return compiler


def can_have_native_kernels() -> bool:
    """What can be said without compiling them."""
    try:
        check_processor()
        find_compiler()
    except NoNativeKernels:
        return False
    return True
