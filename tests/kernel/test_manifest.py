"""Manifests: apps are found by name or folder, and a bad app.toml is named exactly."""

import os
from pathlib import Path

import pytest

from llmos.kernel.capability import Capabilities, FilesRule, GenerateRule, MemoryRule
from llmos.kernel.manifest import Manifest, find_app, list_apps
from llmos.syscalls.errors import E_ARG

APP = '[app]\nname = "brief"\nversion = "1.0.0"\nmain = "brief:main"\n'
CAPABILITIES = """
[capabilities]
generate = { models = ["*"], max_tokens = 20_000 }
memory = { read = ["brief", "shared"], write = ["brief"] }
tools = ["clock"]
files = { read = ["."], write = ["out"] }
children = ["*"]
processes = true
"""


def write_app(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "app.toml").write_text(text)
    return folder


def test_a_folder_with_a_manifest_is_an_app(tmp_path: Path) -> None:
    folder = write_app(tmp_path / "brief", APP)

    found = find_app("./brief", tmp_path)

    assert (found.name, found.version, found.packaged) == ("brief", "1.0.0", False)
    assert found.program() == ("brief", "main", str(folder))
    assert found.capabilities == Capabilities()


@pytest.mark.parametrize("path", [".", "./", "../here", "sub/.."])
def test_folders_are_relative_to_the_workspace(tmp_path: Path, path: str) -> None:
    folder = write_app(tmp_path / "here", APP)

    assert find_app(path, folder).folder == folder


def test_capabilities_are_read_as_they_are_written(tmp_path: Path) -> None:
    write_app(tmp_path, APP + CAPABILITIES)

    assert find_app(".", tmp_path).capabilities == Capabilities(
        generate=GenerateRule(("*",), 20_000),
        memory=MemoryRule(("brief", "shared"), ("brief",)),
        tools=("clock",),
        files=FilesRule((".",), ("out",)),
        children=("*",),
        processes=True,
    )


def test_a_packaged_app_is_a_module_of_llmos() -> None:
    manifest = Manifest("ask", "1", "main:main", "", Path("/x/apps/ask"), True, Capabilities())

    assert manifest.program() == ("llmos.apps.ask.main", "main", None)


def test_every_packaged_app_is_found_by_its_name(tmp_path: Path) -> None:
    for manifest in list_apps():
        assert find_app(manifest.name, tmp_path) == manifest


@pytest.mark.parametrize("name", ["nothing-like-it", "Ask", "a b", "", "\u202e", "x" * 5000])
def test_an_unknown_app_is_refused_with_the_apps_there_are(tmp_path: Path, name: str) -> None:
    with pytest.raises(E_ARG, match=r"no app is called '.*packaged apps: ") as caught:
        find_app(name, tmp_path)

    assert caught.value.field == "app"


def test_a_folder_named_without_a_slash_is_pointed_out(tmp_path: Path) -> None:
    write_app(tmp_path / "qqzz", APP)

    with pytest.raises(E_ARG, match=r"for the folder say \./qqzz"):
        find_app("qqzz", tmp_path)


@pytest.mark.parametrize("path", ["./nowhere", "/", "./app.toml", "./a\0b", "./" + "x" * 300])
def test_a_folder_without_a_manifest_is_refused(tmp_path: Path, path: str) -> None:
    write_app(tmp_path, APP)

    with pytest.raises(E_ARG):
        find_app(path, tmp_path)


def test_a_manifest_that_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "app.toml")

    with pytest.raises(E_ARG, match=r"app\.toml cannot be read: not a regular file"):
        find_app(".", tmp_path)


def test_a_huge_manifest_is_refused(tmp_path: Path) -> None:
    write_app(tmp_path, "#" * 2_000_000)

    with pytest.raises(E_ARG, match="larger than"):
        find_app(".", tmp_path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[app", r"app\.toml is not TOML: Expected"),
        ("", r"app\.toml: app: missing"),
        (APP.replace('version = "1.0.0"\n', ""), r"app\.toml: app\.version: missing"),
        (APP.replace("brief:main", "brief.py"), r"app\.toml: app\.main: Expected str matching"),
        (APP.replace('"brief"', '"../x"'), r"app\.toml: app\.name: Expected str matching"),
        (APP + "icon = 1", r"app\.toml: app\.icon: unknown key"),
        (APP + "[capabilities]\nnetwork = true", r"app\.toml: capabilities\.network: unknown key"),
        (APP + "[capabilities]\ntools = 'clock'", r"capabilities\.tools: Expected array, got str"),
        (APP + "[capabilities]\ntools = [1]", r"capabilities\.tools\[0\]: Expected str"),
        (
            APP + "[capabilities]\ngenerate = { models = ['*'], max_tokens = '9' }",
            r"app\.toml: capabilities\.generate\.max_tokens: Expected int",
        ),
        (APP + "[capabilities]\ngenerate = {}", r"capabilities\.generate\.models: missing"),
        (APP + "[capabilities]\nmemory = { read = ['no name'] }", r"capabilities\.memory\.read"),
        (APP + "[capabilities]\nfiles = { read = ['../x'] }", r"capabilities\.files: Expected a f"),
        (APP + "[capabilities]\nfiles = { write = ['/'] }", r"capabilities\.files: Expected a f"),
    ],
)
def test_a_bad_manifest_is_refused_by_path_and_key(tmp_path: Path, text: str, problem: str) -> None:
    write_app(tmp_path, text)

    with pytest.raises(E_ARG, match=problem):
        find_app(".", tmp_path)
