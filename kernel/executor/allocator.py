"""The C library's allocator: it keeps what a step gives back, for the next step.

By itself glibc returns every large piece to the system at once, and each page of the next one is a
fault: drawing from sixteen rows of 150,000 logits took three times as long. Called when a model has
been loaded: what that gives back is large, and is not needed again.
"""

import ctypes

# mallopt(3)
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_KEPT_BYTES = 256 << 20
_LARGEST_KEPT_BYTES = 32 << 20  # the most that glibc takes


def keep_freed_memory() -> bool:
    """Whether the process's allocator now keeps memory; only glibc's can."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    sizes = {_M_MMAP_THRESHOLD: _LARGEST_KEPT_BYTES, _M_TRIM_THRESHOLD: _KEPT_BYTES}
    return all(mallopt(name, size) for name, size in sizes.items())
