"""Sizes stay small, faults stay visible, and the text stays the project's own."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from tests.architecture.sources import PACKAGES, ROOT, files, functions, modules

MAX_FILE_LINES, MAX_MEDIAN_FILE_LINES = 500, 150
MAX_FUNCTION_LINES, MAX_MEDIAN_FUNCTION_LINES = 60, 10
BROAD = {"Exception", "BaseException"}
# Places of one machine, written so that this line is none.
MACHINE_PATH = re.compile(rb"(?<![\w.~*-])/(?:work/(?:main|shared|[.])|root/|opt/)")


def num_lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def function_lengths(*folders: str) -> dict[str, int]:
    """Lines of every function, its docstring too, by file and name."""
    return {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": (node.end_lineno or 0)
        - node.lineno
        + 1
        for path in modules(*folders)
        for node in functions(path)
    }


def broad_handlers(path: Path) -> Iterator[int]:
    """The lines of a module with an `except` that catches everything."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            if any(kind is None or ast.unparse(kind) in BROAD for kind in caught):
                yield node.lineno


def test_no_file_is_long() -> None:
    long = {str(path): num_lines(path) for path in modules()}

    assert not {path: size for path, size in long.items() if size > MAX_FILE_LINES}


def test_the_median_file_is_short() -> None:
    assert median(num_lines(path) for path in modules(*PACKAGES)) <= MAX_MEDIAN_FILE_LINES


def test_no_function_is_long() -> None:
    lengths = function_lengths()

    assert not {name: size for name, size in lengths.items() if size > MAX_FUNCTION_LINES}


def test_the_median_function_is_short() -> None:
    assert median(function_lengths(*PACKAGES).values()) <= MAX_MEDIAN_FUNCTION_LINES


def test_only_the_dispatcher_catches_everything() -> None:
    catching = [
        f"{path.relative_to(ROOT)}:{line}" for path in modules() for line in broad_handlers(path)
    ]

    assert not [place for place in catching if not place.startswith("kernel/dispatch.py:")]


def test_no_file_names_a_place_of_one_machine() -> None:
    hits = [path for path in files() if MACHINE_PATH.search(path.read_bytes())]

    assert not [str(path.relative_to(ROOT)) for path in hits]
