"""The files of the checkout that the architecture tests look at."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("bin", "apps", "kernel", "memory", "syscalls")
NOT_OURS = {"__pycache__", "build", "dist"}


def files(folder: Path = ROOT) -> Iterator[Path]:
    """Every file under a folder but hidden ones, caches and builds; links are not followed."""
    for entry in sorted(folder.iterdir()):
        if entry.name in NOT_OURS or entry.name.startswith(".") or entry.is_symlink():
            continue
        if entry.is_dir():
            yield from files(entry)
        else:
            yield entry


def modules(*folders: str) -> list[Path]:
    """Every .py file under these folders of the checkout, or under all of it."""
    places = [ROOT / folder for folder in folders] or [ROOT]
    return [path for place in places for path in files(place) if path.suffix == ".py"]


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function of a module, methods and nested ones too."""
    tree = ast.parse(path.read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]
