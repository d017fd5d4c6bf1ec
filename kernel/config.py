"""Where the kernel lives and what it was told: one TOML file, `LLMOS_*`, and the state directory.

`$LLMOS_HOME` is the state directory; `config.toml` in it holds any key of Settings, and the
variable `LLMOS_<KEY>` wins over the file. Nothing is read at import.
"""

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from llmos.syscalls.errors import E_ARG, E_STORAGE

from .toml import convert, read_toml

MAX_SOCKET_PATH_BYTES = 100  # sun_path holds 108 on Linux, 104 on macOS
PREFIX = "LLMOS_"

Seconds = Annotated[float, Meta(gt=0.0, le=86_400.0)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user may set. `max_tokens_default` is for generations that name no bound.

    Models run on `device`: "auto" is every GPU, or the host. Together they may have
    `model_memory_share` of its memory; one that nobody has used for `model_idle_seconds` leaves, 0
    is never. Their weights are of `dtype`: "auto" is bfloat16 where it is faster, else float32.

    Text is streamed and shown at once (`output_commit` "fast") where a model promises to go on
    after a crash exactly as it began, or when its tokens are durable ("strict").

    A process that only waits for `evict_after_seconds`, and 50 ms more for each call in its
    journal, gives up its OS process; 0 is never.
    """

    model: Annotated[str, Meta(min_length=1, max_length=4096)] = "demo"
    max_tokens_default: Annotated[int, Meta(ge=1, le=1_000_000)] = 512
    tool_timeout_seconds: Seconds = 30.0
    kill_grace_seconds: Seconds = 3.0
    device: Annotated[str, Meta(pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$")] = "auto"
    dtype: Annotated[str, Meta(pattern=r"^(auto|float32|bfloat16|int8)$")] = "auto"
    model_memory_share: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.9
    model_idle_seconds: Annotated[float, Meta(ge=0.0, le=31_536_000.0)] = 600.0
    output_commit: Literal["fast", "strict"] = "fast"
    evict_after_seconds: Annotated[float, Meta(ge=0.0, le=31_536_000.0)] = 10.0


class Config(Settings, frozen=True):
    """The settings and the state directory. `runtime` holds the socket if `home` is too long."""

    home: Path
    runtime: Path = Path("/tmp/llmos")

    @property
    def database(self) -> Path:
        """The store."""
        return self.home / "llmos.db"

    @property
    def lock(self) -> Path:
        """Held by the one kernel on this state directory."""
        return self.home / "llmos.lock"

    @property
    def logs(self) -> Path:
        """The folder of what app processes print outside of syscalls."""
        return self.home / "logs"

    @property
    def pages(self) -> Path:
        """The folder of pages that outlive their executor: a cache, to be removed at will."""
        return self.home / "pages"

    @property
    def socket(self) -> Path:
        """Where the daemon listens; its folder is ours alone."""
        path = self.home / "kernel.sock"
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
            return path
        digest = hashlib.sha256(os.fsencode(self.home)).hexdigest()[:16]
        return self.runtime / f"llmos-{digest}.sock"


def load_config(environ: Mapping[str, str]) -> Config:
    """Read the settings and make the state directory ready.

    Raises E_ARG (a bad key or value, naming it and where it stands) or E_STORAGE (a state
    directory that cannot be used safely, with the fix).
    """
    home = _find_home(environ)
    _make_private(home, "LLMOS_HOME")
    settings = msgspec.structs.asdict(_read_settings(home / "config.toml"))
    settings |= _read_environ(environ)
    config = Config(home=home, runtime=_find_runtime(environ), **settings)
    _make_private(config.logs, "LLMOS_HOME")
    _make_private(config.socket.parent, "XDG_RUNTIME_DIR")
    if len(os.fsencode(config.socket)) > MAX_SOCKET_PATH_BYTES:
        raise E_STORAGE(f"{config.socket} is too long for a socket; fix: set a shorter LLMOS_HOME")
    return config


def _find_home(environ: Mapping[str, str]) -> Path:
    if path := environ.get("LLMOS_HOME"):
        try:
            return Path(path).expanduser().absolute()
        except RuntimeError as error:
            raise E_ARG(f"LLMOS_HOME={path}: {error}", field="LLMOS_HOME") from None
    import platformdirs  # 10 ms that most starts need not pay

    return Path(platformdirs.user_data_dir("llmos"))


def _find_runtime(environ: Mapping[str, str]) -> Path:
    """A folder of our own with a short path."""
    parent = environ.get("XDG_RUNTIME_DIR") or environ.get("TMPDIR") or "/tmp"
    return Path(parent).absolute() / f"llmos-{os.geteuid()}"


def _read_settings(path: Path) -> Settings:
    try:
        return read_toml(path, Settings)
    except FileNotFoundError:
        return Settings()
    except E_ARG as error:
        fix = f"fix: correct that line of {path}; keys are {', '.join(Settings.__struct_fields__)}"
        raise E_ARG(f"{error.message}; {fix}", field=error.field) from None


def _read_environ(environ: Mapping[str, str]) -> dict[str, object]:
    """The settings among the variables; text becomes what the key's type is."""
    fields = {PREFIX + field.name.upper(): field for field in msgspec.structs.fields(Settings)}
    values: dict[str, object] = {}
    for name in sorted(environ):
        if name in fields:
            values[fields[name].name] = _read_variable(name, environ[name], fields[name].type)
        elif name.startswith(PREFIX) and name != "LLMOS_HOME":
            known = ", ".join(["LLMOS_HOME", *fields])
            raise E_ARG(f"{name}: unknown variable; fix: unset it; there are {known}", field=name)
    return values


def _read_variable(name: str, text: str, kind: type) -> object:
    try:
        return convert(text, kind, name, strict=False)
    except E_ARG as error:
        raise E_ARG(f"{error.message}; fix: correct or unset it", field=name) from None


def _make_private(folder: Path, variable: str) -> None:
    """Make a folder 0700, or check that the one that exists is ours alone to write."""
    elsewhere = f"set {variable} to a folder of your own"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise E_STORAGE(f"{folder} cannot be made: {error.strerror}; fix: {elsewhere}") from None
    if status.st_uid != os.geteuid():
        raise E_STORAGE(f"{folder} belongs to another user; fix: {elsewhere}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise E_STORAGE(f"others may write to {folder}; fix: chmod 700 {folder}")
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise E_STORAGE(f"{folder} is read-only; fix: chmod 700 {folder}, or {elsewhere}")
