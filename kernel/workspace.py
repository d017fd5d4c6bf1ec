"""A process's folder: every path an app names is opened beneath it, and no link is followed.

A path is resolved one component at a time from a descriptor of the root, each step with
O_NOFOLLOW, so that what was checked is what is opened, whatever the app does meanwhile.
Everything here blocks: call it in a worker thread.
Sources: openat(2); the RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS rules of openat2(2).
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import msgspec

from llmos.syscalls.errors import E_ARG, E_BUSY, E_PERM, E_STORAGE, SyscallError

MAX_NAMES = 10_000
MAX_SHOWN_CHARS = 200
SKIP_CHARS = 1 << 20

_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO must not wait for its other end.
_FILE_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NOT_A_FILE = "not a regular file"
_PROBLEMS: dict[int, tuple[type[SyscallError], str]] = {
    errno.ENOENT: (E_ARG, "no such file"),
    errno.ENOTDIR: (E_ARG, "not a folder, or behind a link"),
    errno.ELOOP: (E_ARG, "a link, and links are not followed"),
    errno.EISDIR: (E_ARG, "a folder, not a file"),
    errno.ENXIO: (E_ARG, _NOT_A_FILE),
    errno.ENAMETOOLONG: (E_ARG, "name too long"),
    errno.EACCES: (E_PERM, "permission denied"),
    errno.EPERM: (E_PERM, "not permitted"),
    errno.ENOSPC: (E_STORAGE, "the disk is full"),
    errno.EDQUOT: (E_STORAGE, "the disk quota is used up"),
    errno.EROFS: (E_STORAGE, "the disk is read-only"),
    errno.EIO: (E_STORAGE, "the disk reports an error"),
    errno.EMFILE: (E_BUSY, "too many open files"),
    errno.ENFILE: (E_BUSY, "too many open files"),
}


def show_path(path: str) -> str:
    """A path for a message: control and direction characters escaped, and not too long."""
    shown = repr(path)
    return shown if len(shown) <= MAX_SHOWN_CHARS else f"{shown[:MAX_SHOWN_CHARS]}..."


@contextlib.contextmanager
def typed_errors(path: str) -> Iterator[None]:
    """What the system or a codec says about `path`, as a typed error."""
    try:
        yield
    except UnicodeError:
        raise E_ARG(f"not UTF-8 text: {show_path(path)}", field="path") from None
    except OSError as error:
        kind, problem = _PROBLEMS.get(error.errno or 0, (E_ARG, error.strerror or "cannot be used"))
        raise kind(f"{problem}: {show_path(path)}", field="path") from None


class Workspace(msgspec.Struct, frozen=True):
    """A root folder, and the files elsewhere that a person named on the command line.

    Both are absolute. Errors of every method: E_ARG (field "path"), E_PERM, E_STORAGE, E_BUSY.
    """

    root: Path
    readable: tuple[Path, ...] = ()

    def relative(self, path: str) -> tuple[str, ...] | None:
        """The components below the root, () for the root; None for a file of `readable`.

        E_PERM if the path leads anywhere else. Nothing is looked up on disk.
        """
        if "\0" in path or not path:
            raise E_ARG(f"not a path: {show_path(path)}", field="path")
        below = os.path.relpath(path, self.root) if path.startswith("/") else os.path.normpath(path)
        parts = tuple(part for part in below.split("/") if part != ".")
        if ".." not in parts:
            return parts
        if Path(os.path.normpath(self.root / path)) in self.readable:
            return None
        raise E_PERM(f"outside of the workspace: {show_path(path)}", field="path")

    def open_file(self, path: str, flags: int, mode: int = 0o600) -> int:
        """A descriptor of a regular file, which the caller closes. `flags` are those of os.open."""
        parts = self.relative(path)
        with typed_errors(path):
            if parts is not None:
                return self._open_beneath(parts, flags, mode)
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
                raise E_PERM(f"may only be read: {show_path(path)}", field="path")
            # A person chose this file, links and all, and no app can change what is on its way.
            return _require_regular(os.open(path, (flags | _FILE_FLAGS) & ~os.O_NOFOLLOW))

    def read_text(self, path: str, offset_chars: int, max_chars: int) -> tuple[str, bool]:
        """Part of a UTF-8 file, as it is (no newline is changed), and whether text follows."""
        file = self.open_file(path, os.O_RDONLY)
        with typed_errors(path), open(file, encoding="utf-8", newline="") as stream:
            _skip(stream, offset_chars)
            text = stream.read(max_chars + 1)
        return text[:max_chars], len(text) > max_chars

    def write_text(self, path: str, text: str) -> int:
        """Replace a file, or make it and its folders; returns its size in bytes.

        A reader sees the old file or the new one, also after a power cut; the new one is on disk
        when this returns. The mode stays what it was, 0600 for a new file.
        """
        parts = self.relative(path)
        if parts is None:
            raise E_PERM(f"may only be read: {show_path(path)}", field="path")
        with typed_errors(path):
            _require_name(parts)
            data = text.encode()
            with self._folder(parts[:-1], make=True) as folder:
                _replace(folder, parts[-1], data)
        return len(data)

    def list_names(self, path: str = ".") -> tuple[str, ...]:
        """The names in a folder, sorted; a folder's ends in a slash. Over MAX_NAMES: E_ARG.

        Bytes of a name that are not UTF-8 are shown as U+FFFD.
        """
        parts = self.relative(path)
        if parts is None:
            raise E_ARG(f"a file, not a folder: {show_path(path)}", field="path")
        names = []
        with typed_errors(path), self._folder(parts) as folder, os.scandir(folder) as entries:
            for entry in entries:
                slash = b"/" if entry.is_dir(follow_symlinks=False) else b""
                names.append((os.fsencode(entry.name) + slash).decode(errors="replace"))
                if len(names) > MAX_NAMES:
                    raise E_ARG(f"over {MAX_NAMES} names in {show_path(path)}", field="path")
        return tuple(sorted(names))

    def _open_beneath(self, parts: tuple[str, ...], flags: int, mode: int) -> int:
        _require_name(parts)
        with self._folder(parts[:-1]) as folder:
            return _require_regular(os.open(parts[-1], flags | _FILE_FLAGS, mode, dir_fd=folder))

    @contextlib.contextmanager
    def _folder(self, parts: tuple[str, ...], *, make: bool = False) -> Iterator[int]:
        """A descriptor of a folder below the root; missing ones are made if wanted."""
        folder = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in parts:
                if make:
                    _make_folder(folder, part)
                below = os.open(part, _FOLDER_FLAGS, dir_fd=folder)
                os.close(folder)
                folder = below
            yield folder
        finally:
            os.close(folder)


def _require_name(parts: tuple[str, ...]) -> None:
    if not parts:
        raise IsADirectoryError(errno.EISDIR, "the root")


def _make_folder(parent: int, name: str) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
        os.fsync(parent)


def _require_regular(file: int) -> int:
    mode = os.fstat(file).st_mode
    if stat.S_ISREG(mode):
        return file
    os.close(file)
    problem = "a folder, not a file" if stat.S_ISDIR(mode) else _NOT_A_FILE
    raise OSError(0, problem)


def _skip(stream: TextIO, num_chars: int) -> None:
    while num_chars > 0 and (text := stream.read(min(num_chars, SKIP_CHARS))):
        num_chars -= len(text)


def _replace(folder: int, name: str, data: bytes) -> None:
    """Write a new file beside the old one, then put it in its place (rename(2) is atomic)."""
    mode = _existing_mode(folder, name)
    temporary = f".llmos-{os.urandom(8).hex()}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE_FLAGS
    file = os.open(temporary, flags, 0o600, dir_fd=folder)
    try:
        with open(file, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fchmod(file, mode)
            os.fsync(file)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
    os.fsync(folder)


def _existing_mode(folder: int, name: str) -> int:
    """The permissions to keep. What is a link, a folder, a device or read-only is not replaced."""
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return 0o600
    if stat.S_ISLNK(mode):
        raise OSError(errno.ELOOP, "a link")
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, "a folder")
    if not stat.S_ISREG(mode):
        raise OSError(0, _NOT_A_FILE)
    if not mode & stat.S_IWUSR:
        raise OSError(errno.EACCES, "read-only")
    return stat.S_IMODE(mode) & 0o777


def require_folder(workspace: str) -> None:
    """E_ARG unless there is such a folder for a process to work in."""
    if not os.path.isdir(workspace):
        raise E_ARG(f"there is no folder {workspace}", field="workspace")
