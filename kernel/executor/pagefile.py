"""A page as a file: a header that says what it is, then its bytes.

    magic 8 | version 4 | crc32 of the bytes 4 | length 8 | model's tag 16 | page's name 16

A crc32 (2.2 GB/s here, BLAKE2b 0.9) is enough: it finds damage, and the folder keeps strangers out.
A file is written under another name and renamed, so that a page file is whole or damaged by what
came after. It is a cache: nothing waits for the disk, and a bad file is one that is not there.
"""

import os
import stat
import struct
import time
import zlib
from hashlib import blake2b
from pathlib import Path

from .pagebytes import Buffer

SUFFIX = ".page"
_TEMPORARY = ".tmp"
_STALE_SECONDS = 60.0
_MAGIC, _VERSION = b"llmospg\n", 1
_HEADER = struct.Struct("<8sIIQ16s16s")


class BadPage(Exception):
    """The file is damaged, truncated or another page's."""


def make_tag(fingerprint: str) -> bytes:
    """What a model's page files are marked with."""
    return blake2b(fingerprint.encode(), digest_size=16).digest()


def count_file_bytes(page_bytes: int) -> int:
    """The size of a page's file."""
    return _HEADER.size + page_bytes


def find_page_files(folder: Path) -> list[tuple[bytes, int]]:
    """Names and sizes of the page files of a folder, those used longest ago first.

    What a writer that died has left is removed; another one may be at work. Raises OSError.
    """
    with os.scandir(folder) as entries:
        found = [one for entry in entries if (one := _look_at(entry))]
    return [(name, size) for _, name, size in sorted(found)]


def _look_at(entry: os.DirEntry[str]) -> tuple[int, bytes, int] | None:
    """When a page file was used, its name and size; None of what is none, or is gone by now."""
    try:
        status = entry.stat(follow_symlinks=False)
        if entry.name.endswith(_TEMPORARY) and status.st_mtime < time.time() - _STALE_SECONDS:
            Path(entry.path).unlink(missing_ok=True)
        if not entry.name.endswith(SUFFIX) or not stat.S_ISREG(status.st_mode):
            return None
        return status.st_mtime_ns, bytes.fromhex(entry.name.removesuffix(SUFFIX)), status.st_size
    except (FileNotFoundError, ValueError):
        return None


def find_path(folder: Path, name: bytes) -> Path:
    """Where the page of this name is."""
    return folder / (name.hex() + SUFFIX)


def write_page_file(folder: Path, tag: bytes, name: bytes, buffer: Buffer) -> None:
    """Write a page. Raises OSError, with nothing left behind."""
    path = find_path(folder, name)
    temporary = path.with_suffix(f".{os.getpid()}{_TEMPORARY}")
    crc = zlib.crc32(buffer.data)
    header = _HEADER.pack(_MAGIC, _VERSION, crc, len(buffer), tag, name)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    try:
        with open(os.open(temporary, flags, 0o600), "wb", buffering=0) as file:
            for part in (memoryview(header), buffer.data):
                _write_all(file.fileno(), part)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _write_all(fd: int, rest: memoryview) -> None:
    while rest:
        rest = rest[os.write(fd, rest) :]


def read_page_file(folder: Path, tag: bytes, name: bytes, buffer: Buffer) -> None:
    """Read a page into `buffer`, and mark it as used. Raises OSError or BadPage."""
    path = find_path(folder, name)
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0) as file:
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            raise BadPage("it ends within its header")
        magic, version, crc, length, *marks = _HEADER.unpack(header)
        if (magic, version, marks) != (_MAGIC, _VERSION, [tag, name]):
            raise BadPage("it is another page's")
        if length != len(buffer) or os.fstat(file.fileno()).st_size != _HEADER.size + length:
            raise BadPage("it has another length")
        _read_all(file.fileno(), buffer.data)
    if zlib.crc32(buffer.data) != crc:
        raise BadPage("its bytes are not those that were written")
    os.utime(path)


def _read_all(fd: int, rest: memoryview) -> None:
    while rest:
        num_bytes = os.readv(fd, [rest])
        if not num_bytes:
            raise BadPage("it was cut while it was read")
        rest = rest[num_bytes:]
