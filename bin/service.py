"""`llmos start`, `stop` and `status`: the kernel as a daemon."""

import errno
import fcntl
import os
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import anyio
import click

from llmos.kernel.config import Config, load_config
from llmos.kernel.devices import Holding
from llmos.kernel.protocol import ReadStatus, Shutdown, StatusReply
from llmos.syscalls.errors import E_KERNEL, E_STORAGE

from .connection import POLL_SECONDS, Connection, try_connect
from .failure import EXIT_STATE, show_failure
from .tables import print_json, print_table

START_SECONDS = 30.0
DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@click.command()
def start() -> int:
    """Start the kernel in the background; returns when it is ready."""
    return anyio.run(_start, load_config(os.environ))


@click.command()
def stop() -> int:
    """Stop the kernel and every process in it."""
    return anyio.run(_stop, load_config(os.environ))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(as_json: bool) -> int:
    """Show the running kernel; exit code 3 if there is none."""
    return anyio.run(_status, load_config(os.environ), as_json)


async def start_daemon(config: Config) -> Connection:
    """A connection to the running kernel, or to the daemon that this starts.

    Raises E_STORAGE with what the daemon said when it does not come up.
    """
    connection = await try_connect(config)
    if connection is not None:
        return connection
    log = config.logs / "llmosd.log"
    daemon = _launch(log)
    with anyio.move_on_after(START_SECONDS):
        while daemon.poll() is None:
            connection = await try_connect(config)
            if connection is not None:
                return connection
            await anyio.sleep(POLL_SECONDS)
    said = log.read_text(errors="replace").strip().removeprefix("llmos: ").replace("\n", "; ")
    raise E_STORAGE(f"the daemon did not come up: {said or _explain_silence(log)}")


def _explain_silence(log: Path) -> str:
    """Why the log is empty: nothing was said, or what was said found no room."""
    try:
        log.write_text("\n")
    except OSError as error:
        if error.errno in DISK_IS_FULL:
            return f"the disk of {log.parent} is full; fix: make room on the disk"
        return f"{log} cannot be written: {error.strerror}"
    return str(log)


def _launch(log: Path) -> "subprocess.Popen[bytes]":
    """Start llmosd away from this terminal; what it says goes to a fresh log."""
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "llmos.bin.daemon"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
        )


async def _start(config: Config) -> int:
    running = await try_connect(config)
    connection = running or await start_daemon(config)
    reply = await connection.request(ReadStatus(), StatusReply)
    await connection.aclose()
    word = "is already running" if running else "is ready"
    click.echo(f"llmos: the kernel {word} (OS process {reply.os_pid})", err=True)
    return 0


async def _stop(config: Config) -> int:
    connection = await try_connect(config)
    if connection is None:
        click.echo("llmos: no kernel is running", err=True)
        return 0
    reply = await connection.request(Shutdown(), StatusReply)
    await connection.aclose()
    with anyio.move_on_after(START_SECONDS):
        while _is_held(config.lock):  # noqa: ASYNC110 - no event tells of another program's end
            await anyio.sleep(POLL_SECONDS)
        click.echo(f"llmos: the kernel (OS process {reply.os_pid}) has stopped", err=True)
        return 0
    raise E_KERNEL(f"the kernel does not end; fix: kill -9 {reply.os_pid}")


def _is_held(lock: Path) -> bool:
    """Whether a kernel still holds the state directory."""
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


async def ask_status(config: Config) -> StatusReply | None:
    """What the running kernel says of itself; None if there is none."""
    connection = await try_connect(config)
    if connection is None:
        return None
    async with aclosing(connection):
        return await connection.request(ReadStatus(), StatusReply)


def describe_holding(holding: Holding) -> str:
    """What a model has of a device, in words."""
    from llmos.kernel.room import format_bytes

    use = "in use" if holding.num_users else f"idle for {holding.idle_seconds:.0f} s"
    return f"up to {format_bytes(holding.granted_bytes)} on {holding.device}, {use}"


async def _status(config: Config, as_json: bool) -> int:
    reply = await ask_status(config)
    if reply is None:
        show_failure(f"no kernel is running on {config.home}", "llmos start")
        return EXIT_STATE
    if as_json:
        print_json(reply)
        return 0
    facts = {
        "version": reply.version,
        "OS process": str(reply.os_pid),
        "state directory": reply.home,
        "processes": str(reply.num_processes),
        "models": ", ".join(reply.models) or "none loaded",
        **{f"memory of {it.model}": describe_holding(it) for it in reply.holdings},
        "store": reply.degraded or "works",
    }
    print_table(("kernel", ""), facts.items())
    return 0
