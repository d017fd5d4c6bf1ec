"""Pages on disk: the last tier, a cache that outlives the process and is never the truth.

The index is of the caller's thread alone; files are touched by a thread of its own, whose outcomes
`collect` brings. A file that is missing, damaged or another page's is forgotten and removed. When
the disk is full or may not be written, the tier says so once and from then on only reads.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .courier import Courier
from .pagebytes import Buffer
from .pagefile import (
    BadPage,
    count_file_bytes,
    find_page_files,
    find_path,
    make_tag,
    read_page_file,
    write_page_file,
)
from .shortage import is_out_of_memory

MAX_QUEUED_BYTES = 128 << 20
_SHARE_OF_FREE = 0.1
_MAX_BYTES = 16 << 30
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What became of a page's file; `buffer` is what was read, None if that failed."""

    kind: Literal["read", "written", "removed"]
    name: bytes
    seconds: float = 0.0
    buffer: Buffer | None = None
    error: OSError | BadPage | None = None


class DiskTier:
    """Pages of one model in a folder, those used longest ago removed first."""

    def __init__(
        self,
        folder: Path,
        *,
        fingerprint: str,
        page_bytes: int,
        make_buffer: Callable[[], Buffer],
        max_bytes: int | None = None,
    ) -> None:
        """Raises OSError when the folder cannot be made, listed or made private."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_mode & 0o077:
            folder.chmod(0o700)
        self._folder = folder
        self._tag = make_tag(fingerprint)
        self._file_bytes = count_file_bytes(page_bytes)
        self._make_buffer = make_buffer
        self._sizes = dict(find_page_files(folder))  # in order of use
        self.num_bytes = sum(self._sizes.values())
        free_bytes = shutil.disk_usage(folder).free + self.num_bytes
        if max_bytes is None:
            max_bytes = min(_MAX_BYTES, int(free_bytes * _SHARE_OF_FREE))
        self._max_bytes = max_bytes
        self._writing: dict[bytes, Buffer] = {}
        self.is_writable = self._file_bytes <= self._max_bytes
        self._courier: Courier[Outcome] = Courier("pages on disk")
        self._shrink()

    @property
    def num_pages(self) -> int:
        """Pages that can be read."""
        return len(self._sizes)

    def __contains__(self, name: object) -> bool:
        return name in self._sizes or name in self._writing

    @property
    def num_unwritten(self) -> int:
        """Pages on their way to their files."""
        return len(self._writing)

    def get_unwritten(self, name: bytes) -> Buffer | None:
        """A page that is on its way to its file."""
        return self._writing.get(name)

    @property
    def has_room(self) -> bool:
        """Whether a page would be written if it came now."""
        return self.is_writable and self._courier.num_waiting * self._file_bytes < MAX_QUEUED_BYTES

    def write(self, name: bytes, buffer: Buffer) -> None:
        """Write a page some time soon; only when `has_room`. The buffer is the tier's from now."""
        self._writing[name] = buffer
        self._courier.submit(lambda: self._write(name, buffer))

    def read(self, name: bytes) -> None:
        """Read a page soon; `collect` brings it."""
        self._sizes[name] = self._sizes.pop(name)
        self._courier.submit(lambda: self._read(name), is_urgent=True)

    def forget(self, names: Iterable[bytes]) -> None:
        """Let these pages be the first to go."""
        first = {name: self._sizes.pop(name) for name in names if name in self._sizes}
        self._sizes = first | self._sizes

    def collect(self) -> list[Outcome]:
        """The pages whose reading has ended since the last call."""
        read = []
        for outcome in self._courier.collect():
            if outcome.kind == "read":
                self._check_read(outcome)
                read.append(outcome)
            elif outcome.kind == "written":
                self._check_written(outcome)
        return read

    def _check_read(self, outcome: Outcome) -> None:
        name, error = outcome.name, outcome.error
        if isinstance(error, BadPage):
            _log.warning("the page %s is computed again: %s", find_path(self._folder, name), error)
        if error is not None and name in self._sizes:
            self._remove(name)

    def _check_written(self, outcome: Outcome) -> None:
        self._writing.pop(outcome.name, None)
        if outcome.error is None:
            self._sizes[outcome.name] = self._file_bytes
            self.num_bytes += self._file_bytes
            self._shrink()
        elif self.is_writable:
            self.is_writable = False
            _log.warning("no more pages are written to %s: %s", self._folder, outcome.error)

    def _shrink(self) -> None:
        while self._sizes and self.num_bytes > self._max_bytes:
            self._remove(next(iter(self._sizes)))

    def _remove(self, name: bytes) -> None:
        self.num_bytes -= self._sizes.pop(name)
        self._courier.submit(lambda: self._unlink(name))

    def wait(self, timeout_seconds: float) -> None:
        """Wait until there is something to collect, or nothing left to do."""
        self._courier.wait(timeout_seconds)

    def drain(self, timeout_seconds: float = 60.0) -> bool:
        """Wait until all files are as they shall be; whether that came to pass."""
        return self._courier.drain(timeout_seconds)

    def close(self) -> None:
        """End the thread; what was not yet written is lost."""
        self._courier.close()

    # Jobs: on the courier's thread, touching files alone.

    def _write(self, name: bytes, buffer: Buffer) -> Outcome:
        try:
            write_page_file(self._folder, self._tag, name, buffer)
        except OSError as error:
            return Outcome("written", name, error=error)
        return Outcome("written", name)

    def _read(self, name: bytes) -> Outcome:
        started = time.monotonic()
        try:
            buffer = self._make_buffer()
            read_page_file(self._folder, self._tag, name, buffer)
        except (OSError, BadPage) as error:
            return Outcome("read", name, error=error)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return Outcome("read", name)  # nothing is wrong with the file
        return Outcome("read", name, time.monotonic() - started, buffer)

    def _unlink(self, name: bytes) -> Outcome:
        try:
            find_path(self._folder, name).unlink(missing_ok=True)
        except OSError as error:
            return Outcome("removed", name, error=error)
        return Outcome("removed", name)

    def check_integrity(self) -> None:
        """Raise AssertionError if the sizes do not add up or exceed the bound."""
        if self.num_bytes != sum(self._sizes.values()) or self.num_bytes > self._max_bytes:
            raise AssertionError("the disk tier's sizes do not add up")
