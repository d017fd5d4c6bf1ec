"""Writes the README's tree from the modules' docstrings: `python -m tests.architecture.tree`."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.sources import PACKAGES, ROOT

BEGIN, END = "<!-- tree -->\n```\n", "```\n<!-- /tree -->"
WIDTH = 24


def first_line(path: Path) -> str:
    """What a file says of itself: a module's docstring, a script's first comment, the first
    sentence of C's."""
    text = path.read_text()
    if path.suffix in (".c", ".h"):
        comment = text.partition("/*")[2].partition("*/")[0].replace("\n *", " ")
        return " ".join(comment.split()).partition(". ")[0].rstrip(".") + "."
    if path.suffix == ".py":
        return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    comments = [line for line in text.splitlines() if line.startswith("# ")]
    return comments[0].removeprefix("# ") if comments else ""


def lines(folder: Path, depth: int = 0) -> Iterator[str]:
    """A folder's line, then a line per module and folder in it; an app is one line."""
    indent = "  " * depth
    yield f"{indent + folder.name + '/':<{WIDTH}}{first_line(folder / '__init__.py')}"
    is_apps = folder == ROOT / "apps"
    for path in sorted(folder.iterdir()):
        if path.is_dir() and (path / "__init__.py").is_file():
            app = [f"  {indent + path.name + '/':<{WIDTH - 2}}{first_line(path / '__init__.py')}"]
            yield from app if is_apps else lines(path, depth + 1)
        elif path.is_file() and path.name != "__init__.py" and not is_apps:
            yield f"  {indent + path.name:<{WIDTH - 2}}{first_line(path)}"


def block() -> str:
    """The README's tree with its markers."""
    packages = ["\n".join(lines(ROOT / package)) for package in PACKAGES]
    return BEGIN + "\n".join(packages) + "\n" + END


def refresh(readme: Path) -> None:
    """Put the tree between the README's markers."""
    text = readme.read_text()
    begin, end = text.index(BEGIN.partition("\n")[0]), text.index("<!-- /tree -->")
    readme.write_text(text[:begin] + block() + text[end + len("<!-- /tree -->") :])


if __name__ == "__main__":
    refresh(ROOT / "README.md")
