"""Folders of a suite's own, in memory where there is such a file system, and its command line."""

import argparse
import functools
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .disk import Folder

MEMORY = Path("/dev/shm")
Report = Callable[[str], None]
Run = Callable[..., dict[str, float]]

tell: Report = functools.partial(print, file=sys.stderr, flush=True)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as name:
        yield Path(name).resolve()


def put_folder(path: Path, folder: Folder) -> None:
    """Make `path` hold these files and no others."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    for name, content in folder.items():
        (path / name).write_bytes(content)


def main(run: Run) -> None:
    """Play a suite as the command line says; its figures are one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--number", type=int, required=True, help="how many runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weak", action="store_true", help="the positive control")
    options = parser.parse_args()
    figures = run(options.number, options.seed, is_weak=options.weak, report=tell)
    print(json.dumps(figures))
