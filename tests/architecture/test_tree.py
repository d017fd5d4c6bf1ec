"""The README's tree is the tree."""

import ast

import pytest

from tests.architecture.sources import PACKAGES, ROOT, modules
from tests.architecture.tree import block


def test_the_tree_in_the_readme_is_what_the_modules_say() -> None:
    readme = (ROOT / "README.md").read_text()

    assert block() in readme, "refresh it: python -m tests.architecture.tree"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_says_in_its_first_line_what_it_is(package: str) -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in modules(package)
        if not (ast.get_docstring(ast.parse(path.read_text())) or "").strip()
    ]

    assert not silent
