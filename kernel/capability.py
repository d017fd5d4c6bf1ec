"""What a process may do: the manifest's capabilities, checked on every call and only ever narrowed.

What is not listed is denied. A pattern is a name in which each `*` stands for any text; a folder
allows all that is below it.
"""

import posixpath
from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta

from llmos.syscalls.errors import E_ARG, E_PERM
from llmos.syscalls.files import ListFiles, ReadFile, WriteFile
from llmos.syscalls.generate import Embed, Generate, Score
from llmos.syscalls.memory import Forget, Recall, Remember
from llmos.syscalls.process import Spawn
from llmos.syscalls.table import Syscall
from llmos.syscalls.tool import Tool

from .workspace import Workspace, show_path

Pattern = Annotated[str, Meta(min_length=1, max_length=200)]
Space = Annotated[str, Meta(pattern=r"^[A-Za-z0-9*][A-Za-z0-9_.*-]{0,199}$")]
Folder = Annotated[str, Meta(min_length=1, max_length=4096)]


class GenerateRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which models, and how many tokens may be generated in the life of a process."""

    models: tuple[Pattern, ...]
    max_tokens: Annotated[int, Meta(ge=1, le=2**53)] | None = None


class MemoryRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The spaces of memory that may be read, and written, by name or pattern.

    A call that names no space reads all that are listed by name, and writes the first of these.
    """

    read: tuple[Space, ...] = ()
    write: tuple[Space, ...] = ()

    def readable_names(self) -> tuple[str, ...]:
        """What a recall that names no space searches."""
        return tuple(space for space in self.read if "*" not in space)

    def default_name(self) -> str:
        """Where a call that names no space writes. E_ARG if only patterns are listed."""
        for space in self.write:
            if "*" not in space:
                return space
        raise E_ARG("the manifest lists no memory space by name; name one", field="space")


class FilesRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The folders of the workspace that may be read, and written."""

    read: tuple[Folder, ...] = ()
    write: tuple[Folder, ...] = ()

    def __post_init__(self) -> None:
        for folder in (*self.read, *self.write):
            if folder.startswith("/") or ".." in folder.split("/"):
                raise ValueError(f"Expected a folder of the workspace, got {folder!r}")


class Capabilities(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table `[capabilities]` of a manifest."""

    generate: GenerateRule = GenerateRule(())
    memory: MemoryRule = MemoryRule()
    tools: tuple[Pattern, ...] = ()
    files: FilesRule = FilesRule()
    children: tuple[Pattern, ...] = ()
    processes: bool = False


def check(
    capabilities: Capabilities,
    row: Syscall,
    call: msgspec.Struct,
    *,
    model: str,
    workspace: Workspace,
) -> None:
    """Return if the process may make this call.

    `model` is the process's own. Raises E_PERM naming what the manifest would have to say.
    """
    match call:
        case _ if row.capability == "none":
            return
        case Generate():
            _require_model(capabilities, call.model or model)
            for tool in call.tools:
                require_tool(capabilities, tool)
        case Score() | Embed():
            _require_model(capabilities, call.model or model)
        case Recall():
            require_space("read", capabilities.memory.read, call.space)
        case Remember() | Forget():
            require_space("write", capabilities.memory.write, call.space)
        case Tool():
            require_tool(capabilities, call.name)
        case ReadFile() | ListFiles():
            require_readable(capabilities, workspace, call.path)
        case WriteFile():
            require_writable(capabilities, workspace, call.path)
        case Spawn():
            if not fits_any(call.app, capabilities.children):
                raise _denied(f"child {call.app!r}", f"add {call.app!r} to", "children")
        case _ if row.capability == "processes":
            if not capabilities.processes:
                raise _denied(f"call {row.name!r}", "say", "processes = true")
        case _:
            raise E_PERM(f"no rule allows {row.name!r}, which needs {row.capability!r}")


def _require_model(capabilities: Capabilities, name: str) -> None:
    if not fits_any(name, capabilities.generate.models):
        raise _denied(f"model {name!r}", f"add {name!r} to", "generate.models")


def require_tool(capabilities: Capabilities, name: str) -> None:
    """E_PERM unless this tool may be called."""
    if not fits_any(name, capabilities.tools):
        raise _denied(f"tool {name!r}", f"add {name!r} to", "tools")


def require_readable(capabilities: Capabilities, workspace: Workspace, path: str) -> None:
    """E_PERM unless this path may be read. A file that a person named needs any read folder."""
    parts = workspace.relative(path)
    allowed = capabilities.files.read
    if not (bool(allowed) if parts is None else _is_below_any(parts, allowed)):
        raise _denied(f"reading {show_path(path)}", "add its folder to", "files.read")


def require_writable(capabilities: Capabilities, workspace: Workspace, path: str) -> None:
    """E_PERM unless this path may be written."""
    parts = workspace.relative(path)
    if parts is None or not _is_below_any(parts, capabilities.files.write):
        raise _denied(f"writing {show_path(path)}", "add its folder to", "files.write")


def require_space(verb: str, allowed: tuple[str, ...], space: str | None) -> None:
    """E_PERM unless this space of memory, or any for None, is among those allowed to `verb`."""
    if not (bool(allowed) if space is None else fits_any(space, allowed)):
        what = "any memory" if space is None else f"memory {space!r}"
        fix = "add a space to" if space is None else f"add {space!r} to"
        raise _denied(f"to {verb} {what}", fix, f"memory.{verb}")


def _denied(what: str, fix: str, key: str) -> E_PERM:
    return E_PERM(f"the manifest does not allow {what}; {fix} [capabilities] {key}")


def narrow(parent: Capabilities, child: Capabilities) -> Capabilities:
    """What a child may do: what both allow, in the child's order.

    Of two patterns, one must cover the other to leave anything: `a*` and `*b` have nothing in
    common here. The token bound is the smaller one.
    """
    bounds = [rule.max_tokens for rule in (parent.generate, child.generate) if rule.max_tokens]
    return Capabilities(
        generate=GenerateRule(
            _common_patterns(parent.generate.models, child.generate.models),
            min(bounds, default=None),
        ),
        memory=MemoryRule(
            _common_patterns(parent.memory.read, child.memory.read),
            _common_patterns(parent.memory.write, child.memory.write),
        ),
        tools=_common_patterns(parent.tools, child.tools),
        files=FilesRule(
            _common_folders(parent.files.read, child.files.read),
            _common_folders(parent.files.write, child.files.write),
        ),
        children=_common_patterns(parent.children, child.children),
        processes=parent.processes and child.processes,
    )


def _common_patterns(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    # With `*` as the only wildcard, a pattern that fits another's text covers all that it fits.
    kept = [pattern for pattern in second if fits_any(pattern, first)]
    kept += [pattern for pattern in first if fits_any(pattern, second)]
    return tuple(dict.fromkeys(kept))


def _common_folders(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    kept = [folder for folder in second if _is_below_any(_parts(folder), first)]
    kept += [folder for folder in first if _is_below_any(_parts(folder), second)]
    return tuple(dict.fromkeys(kept))


def _parts(folder: str) -> tuple[str, ...]:
    return tuple(part for part in posixpath.normpath(folder).split("/") if part != ".")


def _is_below_any(parts: tuple[str, ...], folders: Iterable[str]) -> bool:
    return any(parts[: len(allowed)] == allowed for allowed in map(_parts, folders))


def fits_any(name: str, patterns: Iterable[str]) -> bool:
    """Whether the name fits one of the patterns."""
    return any(_fits(name, pattern) for pattern in patterns)


def _fits(name: str, pattern: str) -> bool:
    """Greedy from the left, in linear time: the text between stars must come in this order."""
    head, *pieces = pattern.split("*")
    if not pieces:
        return name == pattern
    if not name.startswith(head):
        return False
    at = len(head)
    for piece in pieces[:-1]:
        found = name.find(piece, at)
        if found < 0:
            return False
        at = found + len(piece)
    return len(name) - at >= len(pieces[-1]) and name.endswith(pieces[-1])
