"""`llmos doctor`: look at what llmos stands on, and say what to do about what is wrong."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import anyio
import click

from llmos import __version__
from llmos.kernel.config import Config, load_config
from llmos.kernel.devices import Device, find_devices
from llmos.syscalls.errors import E_MODEL, E_STORAGE

from .failure import EXIT_OK, EXIT_STATE
from .service import ask_status
from .tables import print_json, print_table

MIN_FREE_BYTES = 256 << 20
QUICK_LOOK_SECONDS = 2.0
# The WAL-reset bug needs two connections that write or checkpoint at once; llmos has one writer.
SQLITE_WITHOUT_RESET_BUG = (3, 51, 3)
SQLITE_WITH_FIX_BACKPORTED = ((3, 44, 6), (3, 50, 7))


class Finding(NamedTuple):
    """One thing looked at. A `fix` says that something is wrong, `fatal` that nothing can run."""

    what: str
    found: str
    fix: str = ""
    fatal: bool = False


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def doctor(as_json: bool) -> int:
    """Check Python, the libraries, the state directory and the model."""
    findings = list(examine(load_config(os.environ)))
    if as_json:
        print_json([finding._asdict() for finding in findings])
    else:
        rows = [(finding.what, finding.found, finding.fix) for finding in findings]
        print_table(("LLMOS", __version__, "FIX"), rows)
    return EXIT_STATE if any(finding.fatal for finding in findings) else EXIT_OK


def examine(config: Config) -> Iterator[Finding]:
    """Look at everything once."""
    yield Finding("python", f"{platform.python_version()} ({sys.executable})")
    for package in ("torch", "transformers"):
        yield check_package(package)
    yield check_sqlite()
    yield check_space(config)
    yield check_store(config)
    yield check_file(config.database)
    yield check_log(config.database)
    yield check_model(config)
    yield from check_devices(find_devices(), config)


def check_package(name: str) -> Finding:
    """Whether a library of the executor is installed; importing it would take seconds."""
    try:
        return Finding(name, version(name))
    except PackageNotFoundError:
        return Finding(name, "not installed", "pip install 'llmos[local]', or use --model echo")


def check_sqlite() -> Finding:
    """Warn of versions with the WAL-reset bug."""
    from llmos.memory.db import SQLITE_VERSION

    found = ".".join(map(str, SQLITE_VERSION))
    if SQLITE_VERSION >= SQLITE_WITHOUT_RESET_BUG or SQLITE_VERSION in SQLITE_WITH_FIX_BACKPORTED:
        return Finding("sqlite", found)
    advice = "has the WAL-reset bug, which llmos avoids; open the store with nothing else"
    return Finding("sqlite", found, advice)


def check_space(config: Config) -> Finding:
    """Whether the disk of the state directory has room. load_config has checked its modes."""
    free_bytes = shutil.disk_usage(config.home).free
    found = f"{config.home} ({free_bytes >> 20} MiB free)"
    if free_bytes >= MIN_FREE_BYTES:
        return Finding("state directory", found)
    fix = "free some space or set LLMOS_HOME to another disk"
    return Finding("state directory", found, fix, free_bytes == 0)


def check_store(config: Config) -> Finding:
    """Whether the kernel that runs can write to its store."""
    status = anyio.run(ask_status, config)
    if status is None:
        return Finding("store", "no kernel is running")
    if status.degraded is None:
        return Finding("store", "works")
    return Finding("store", status.degraded, "make room on the disk; processes go on by themselves")


def check_file(store: Path) -> Finding:
    """Whether the store's pages are in order, as far as a short look goes."""
    from llmos.memory.check import look_quickly

    if not store.exists():
        return Finding("store file", "none yet")
    try:
        is_all = look_quickly(store, QUICK_LOOK_SECONDS)
    except E_STORAGE as error:
        fix = "llmos db check says what of it is damaged"
        return Finding("store file", error.message, fix, fatal=True)
    size = f"{store.stat().st_size >> 20} MiB"
    return Finding("store file", f"{size}, pages in order" if is_all else f"{size}, not all read")


def check_log(store: Path) -> Finding:
    """Whether the store's write-ahead log is copied back."""
    from llmos.memory.wal import ALARM_BYTES, log_bytes

    size_bytes = log_bytes(store)
    found = f"{size_bytes >> 20} MiB"
    if size_bytes <= ALARM_BYTES:
        return Finding("store log", found)
    return Finding("store log", found, "end what reads the store for long; then it empties itself")


def check_devices(devices: tuple[Device, ...], config: Config) -> Iterator[Finding]:
    """What models may run on, and whether the setting names one of them."""
    from llmos.kernel.models import choose_devices
    from llmos.kernel.room import format_bytes

    try:
        chosen = choose_devices(config.device, devices)
    except E_MODEL as error:
        what, _, fix = error.message.partition("; fix: ")
        yield Finding("device", what, fix)
        return
    for device in chosen:
        free, total = format_bytes(device.free_bytes), format_bytes(device.total_bytes)
        yield Finding("device", f"{device.name}: {device.title}, {free} of {total} free")


def check_model(config: Config) -> Finding:
    """Whether the default model is there."""
    from llmos.kernel.models import DEMO_FOLDER

    if config.model != "demo":
        return Finding("model", config.model)
    if (DEMO_FOLDER / "config.json").is_file():
        return Finding("model", f"demo ({DEMO_FOLDER})")
    fix = "this copy of llmos lacks models/demo: use --model with a folder or hub id"
    return Finding("model", "demo: missing", fix, fatal=False)
