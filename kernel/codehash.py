"""The code hash: which code of an app made a journal row.

It covers app.toml and every .py file below the app's folder; what is hidden and what Python caches
is no source. Past MAX_CODE_BYTES in all, of a file only the name and size count.
"""

import hashlib
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from anyio import to_thread

from .applog import AppLog
from .manifest import MANIFEST
from .process import Process

MAX_CODE_BYTES = 8 << 20
MAX_SOURCES = 1000
MAX_FOLDERS = 1000
DIGEST_BYTES = 16


async def identify_code(process: Process, log: AppLog) -> None:
    """Note the code that a process is about to run; if it ran on other code, its log says so."""
    process.code_hash = await to_thread.run_sync(hash_code, process.manifest.folder)
    if any(row.code_hash != process.code_hash for row in process.journaled.values()):
        await log.note("the app's code changed since this process started")


def hash_code(folder: Path) -> str:
    """BLAKE2b over names, sizes and bytes of an app's source files, as hexadecimal digits."""
    digest, left = hashlib.blake2b(digest_size=DIGEST_BYTES), MAX_CODE_BYTES
    for path in islice(_find_sources(folder), MAX_SOURCES):
        try:
            with path.open("rb") as file:
                size, body = os.fstat(file.fileno()).st_size, file.read(left)
        except OSError as error:
            size, body = 0, str(error.errno).encode()
        left -= len(body)
        for part in (os.fsencode(path.relative_to(folder)), str(size).encode(), body):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _find_sources(folder: Path) -> Iterator[Path]:
    """Source files in an order that only their names decide; links to folders are not followed."""
    folders, num_folders = [folder], 0
    while folders and num_folders < MAX_FOLDERS:
        num_folders += 1
        for entry in _list(folders.pop()):
            if entry.is_dir(follow_symlinks=False):
                folders.append(Path(entry.path))
            elif (entry.name == MANIFEST or entry.name.endswith(".py")) and entry.is_file():
                yield Path(entry.path)


def _list(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith((".", "__pycache__"))]
    except OSError:
        return []
    return sorted(shown, key=lambda entry: entry.name)
