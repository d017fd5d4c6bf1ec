"""The library between the store and its disk: built by the machine's compiler, loaded, asked.

`build` and `environment` are for whoever starts a program on such a disk; `Shim` is that program's
own handle of it.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

SOURCE = Path(__file__).with_name("shim.c")
ROOT = SOURCE.parents[2]
COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O2", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-pthread")
NUM_CLASSES = 3

FaultName = Literal["no space", "I/O error", "short write", "sync reverts", "sync forgets"]
FAULTS: dict[FaultName, int] = {
    "no space": 1,
    "I/O error": 2,
    "short write": 3,
    "sync reverts": 4,
    "sync forgets": 5,
}
# Which count of `Shim.counts` says how often a fault could happen.
CLASS_OF: dict[FaultName, int] = {
    "no space": 0,
    "I/O error": 0,
    "short write": 1,
    "sync reverts": 2,
    "sync forgets": 2,
}


def why_not() -> str | None:
    """Why the library cannot be used here; None where it can."""
    if sys.platform != "linux":
        return "the shim knows Linux's system calls alone"
    if not any(map(shutil.which, COMPILERS)):
        return "no C compiler is found"
    return None


def build(folder: Path) -> Path:
    """Compile the library into `folder`; its path."""
    compiler = next(filter(None, map(shutil.which, COMPILERS)))
    library = folder / "shim.so"
    subprocess.run([compiler, *FLAGS, "-o", str(library), str(SOURCE)], check=True)
    return library


def environment(library: Path) -> dict[str, str]:
    """The environment of a Python program that has the library between itself and the disk."""
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": paths}


class Shim:
    """The library that this very program was started with."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ["LD_PRELOAD"])
        self._log_fd = -1

    def watch(self, folder: Path, log: Path | None = None) -> None:
        """Look at the files of `folder` from now on, without a fault; write down changes."""
        self.close()
        if log is not None:
            self._log_fd = os.open(log, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        self._library.shim_watch(os.fsencode(folder.resolve()), self._log_fd)

    def close(self) -> None:
        """Look at nothing any more; the log is complete."""
        self._library.shim_watch(b"", -1)
        if self._log_fd >= 0:
            os.close(self._log_fd)
        self._log_fd = -1

    def mark(self, number: int) -> None:
        """Write a mark into the log, behind all that was done so far."""
        self._library.shim_mark(ctypes.c_long(number))

    def arm(self, fault: FaultName, position: int, is_sticky: bool) -> None:
        """From now on the call number `position` (from 1) of the fault's class meets it.

        With `is_sticky` all after it do too, until `heal`.
        """
        self._library.shim_arm(FAULTS[fault], ctypes.c_long(position), int(is_sticky))

    def heal(self) -> None:
        """The disk works again."""
        self._library.shim_arm(0, ctypes.c_long(0), 0)

    def counts(self) -> tuple[int, ...]:
        """How many calls changed the folder since `watch`; how many wrote; how many synced."""
        return tuple(self._library.shim_count(number) for number in range(NUM_CLASSES))

    @property
    def num_failed(self) -> int:
        """How many calls met the fault since `watch`."""
        return int(self._library.shim_num_failed())
