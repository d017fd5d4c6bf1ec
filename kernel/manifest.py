"""What an app is: its app.toml, read as a file and never by importing the app."""

import difflib
import os
import re
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

import llmos
from llmos.syscalls.errors import E_ARG

from .capability import Capabilities
from .toml import read_toml
from .workspace import show_path

MANIFEST = "app.toml"

RestartPolicy = Literal["never", "on-failure", "always"]
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")


class AppTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table `[app]`. `main` is "module:function", the module's file being beside app.toml.

    `restart` says whether a process goes on when its OS process dies or its main raises, or also
    when its main returns.
    """

    name: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,63}\Z")]
    version: Annotated[str, Meta(min_length=1, max_length=64)]
    main: Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*\Z")]
    description: Annotated[str, Meta(max_length=500)] = ""
    restart: RestartPolicy = "never"


class ManifestFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole app.toml."""

    app: AppTable
    capabilities: Capabilities = Capabilities()


class Manifest(msgspec.Struct, frozen=True):
    """An app that was found. `folder` is absolute; a packaged app came with llmos itself."""

    name: str
    version: str
    main: str
    description: str
    folder: Path
    packaged: bool
    capabilities: Capabilities
    restart: RestartPolicy = "never"

    def program(self) -> tuple[str, str, str | None]:
        """Module, function, and the folder that has to be on the import path, if any."""
        module, _, function = self.main.partition(":")
        if self.packaged:
            return f"llmos.apps.{self.folder.name}.{module}", function, None
        return module, function, str(self.folder)


def find_app(name_or_path: str, workspace: Path) -> Manifest:
    """The app of this name, or in this folder (which has a slash or dot in it).

    A relative folder is below `workspace`. Raises E_ARG with `field` "app" for an unknown app, and
    with the path and the key of whatever is wrong in its app.toml.
    """
    if "/" in name_or_path or "." in name_or_path:
        return _read_folder(name_or_path, workspace)
    folder = _packaged_folder() / name_or_path
    if _NAME.fullmatch(name_or_path) and (folder / MANIFEST).is_file():
        return _read_manifest(folder, packaged=True)
    raise _unknown(name_or_path, workspace)


def list_apps() -> list[Manifest]:
    """The packaged apps, by name."""
    return [_read_manifest(_packaged_folder() / name, packaged=True) for name in _packaged_names()]


def _packaged_folder() -> Path:
    return Path(llmos.__path__[0]) / "apps"


def _packaged_names() -> list[str]:
    return sorted(file.parent.name for file in _packaged_folder().glob(f"*/{MANIFEST}"))


def _read_folder(path: str, workspace: Path) -> Manifest:
    if "\0" in path:
        raise E_ARG(f"not a path: {show_path(path)}", field="app")
    folder = Path(os.path.normpath(workspace.absolute() / path))
    try:
        return _read_manifest(folder, packaged=False)
    except FileNotFoundError:
        fix = "fix: name an app's folder, or make one with: llmos app new NAME"
        raise E_ARG(f"no {MANIFEST} in {show_path(str(folder))}; {fix}", field="app") from None


def _read_manifest(folder: Path, *, packaged: bool) -> Manifest:
    file = read_toml(folder / MANIFEST, ManifestFile)
    app = file.app
    return Manifest(
        app.name,
        app.version,
        app.main,
        app.description,
        folder,
        packaged,
        file.capabilities,
        app.restart,
    )


def _unknown(name: str, workspace: Path) -> E_ARG:
    names = _packaged_names()
    message = f"no app is called {show_path(name)}"
    if close := difflib.get_close_matches(name, names, 1):
        message += f"; did you mean {close[0]}?"
    elif _NAME.fullmatch(name) and (workspace / name / MANIFEST).is_file():
        message += f"; for the folder say ./{name}"
    return E_ARG(f"{message}; packaged apps: {', '.join(names) or 'none'}", field="app")
