"""What the documents say is what the code does."""

import ast
import re
import tomllib
from pathlib import Path

import msgspec
import pytest

from llmos.bin.commands import COMMANDS
from llmos.kernel.manifest import ManifestFile
from llmos.syscalls.table import ROWS
from tests.architecture.sources import ROOT

DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"`(?:bin/)?llmos ([a-z]+)")
_LINK = re.compile(r"\]\(([^)#:]+)\)")


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a document in one language."""
    return [text for kind, text in _BLOCK.findall(path.read_text()) if kind == language]


def syscalls_document() -> str:
    """What docs/syscalls.md has to be."""
    lines = [
        "# Syscalls",
        "",
        "What an app may ask of the kernel. Made from the syscall table; a test compares the two.",
        "",
        "| call | fields | effect | capability | what it does |",
        "|---|---|---|---|---|",
    ]
    for row in ROWS:
        fields = ", ".join(f"`{field.name}`" for field in msgspec.structs.fields(row.request))
        about = (row.request.__doc__ or "").splitlines()[0]
        lines.append(f"| `{row.name}` | {fields} | {row.effect} | {row.capability} | {about} |")
    return "\n".join(lines) + "\n"


def test_the_list_of_syscalls_is_the_table() -> None:
    assert (ROOT / "docs" / "syscalls.md").read_text() == syscalls_document()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_python_in_documents_is_python(path: Path) -> None:
    for text in blocks(path, "python"):
        assert ast.parse(text)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_manifests_in_documents_are_manifests(path: Path) -> None:
    for text in blocks(path, "toml"):
        assert msgspec.convert(tomllib.loads(text), ManifestFile).app.name


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_in_documents_exist(path: Path) -> None:
    named = set(_COMMAND.findall(path.read_text()))

    assert named <= set(COMMANDS)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_in_documents_lead_somewhere(path: Path) -> None:
    for target in _LINK.findall(path.read_text()):
        assert (path.parent / target).exists(), target


def test_the_apps_of_the_guide_can_be_called_as_it_says() -> None:
    from llmos.syscalls.argv import bind_argv

    scope: dict[str, object] = {}
    exec(compile(blocks(ROOT / "docs" / "apps.md", "python")[0], "apps.md", "exec"), scope)
    main = scope["main"]
    assert callable(main)

    bound = bind_argv(main, ["solar sails", "2", "--loud"])

    assert bound.arguments == {"topic": "solar sails", "drafts": 2, "loud": True}
