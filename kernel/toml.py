"""TOML files as typed structs, with errors that name the file and the key."""

import os
import re
import stat
import tomllib
from pathlib import Path
from typing import TypeVar

import msgspec

from llmos.syscalls.errors import E_ARG, E_PERM

MAX_FILE_BYTES = 1 << 20

_PLACE = re.compile(r" - at `\$\.?([^`]*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
T = TypeVar("T")


def read_toml(path: Path, kind: type[T]) -> T:
    """A TOML file as a struct. Raises E_ARG whose message has the path and the key.

    `field` is the key. FileNotFoundError passes through: what a missing file means is the
    caller's to say.
    """
    try:
        data = _read_bytes(path)
    except FileNotFoundError:
        raise
    except PermissionError:
        raise E_PERM(f"{path} may not be read; fix: chmod u+r {path}") from None
    except OSError as error:
        raise E_ARG(f"{path} cannot be read: {error.strerror}", field="path") from None
    return convert(_parse(path, data), kind, str(path))


def _read_bytes(path: Path) -> bytes:
    # O_NONBLOCK: a FIFO of this name must not stop whoever reads it.
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(0, "not a regular file")
        return os.read(file, MAX_FILE_BYTES + 1)
    finally:
        os.close(file)


def _parse(path: Path, data: bytes) -> dict[str, object]:
    if len(data) > MAX_FILE_BYTES:
        raise E_ARG(f"{path} is larger than {MAX_FILE_BYTES} bytes", field="path")
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as error:
        raise E_ARG(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise E_ARG(f"{path} is not TOML: {error}") from None


def convert(value: object, kind: type[T], origin: str, *, strict: bool = True) -> T:
    """A value as this type; E_ARG says "origin: key: what is wrong"."""
    try:
        return msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        key, problem = describe(error)
    raise E_ARG(": ".join(part for part in (origin, key, problem) if part), field=key or None)


def describe(error: msgspec.ValidationError) -> tuple[str, str]:
    """msgspec's error as the key's dotted path ("" for the whole) and what is wrong with it."""
    text = str(error)
    place = _PLACE.search(text)
    keys = [place.group(1)] if place and place.group(1) else []
    text = text[: place.start()] if place else text
    for pattern, problem in ((_UNKNOWN, "unknown key"), (_MISSING, "missing")):
        if found := pattern.fullmatch(text):
            keys, text = [*keys, found.group(1)], problem
    return ".".join(keys), text.replace("`", "")
