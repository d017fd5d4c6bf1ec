"""`llmos ps`, `log` and `kill`: see processes and signal them."""

import os
from datetime import datetime
from typing import Any, TypeVar, get_args

import anyio
import click

from llmos.kernel.config import load_config
from llmos.kernel.protocol import (
    FromTerminal,
    Kill,
    KillReply,
    ListProcesses,
    LogReply,
    LogRow,
    ProcessListing,
    ReadLog,
)
from llmos.syscalls.process import ProcessInfo, SignalName

from .connection import reach_kernel, retry_once
from .failure import EXIT_STATE, show_failure
from .screen import Screen, format_seconds
from .tables import print_json, print_table

T = TypeVar("T")
PID = click.IntRange(min=1, max=2**53)


@click.command()
@click.option("-n", "limit", type=click.IntRange(1, 10_000), default=100, help="How many.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def ps(limit: int, as_json: bool) -> int:
    """List processes, newest last."""
    found = ask_kernel(ListProcesses(limit), ProcessListing).listing.processes
    if as_json:
        print_json(found)
    else:
        header = ("PID", "PARENT", "STATE", "EXIT", "TOKENS", "MODEL", "STARTED", "APP")
        print_table(header, map(_process_row, found))
    return 0


@click.command()
@click.argument("pid", type=PID)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def log(pid: int, as_json: bool) -> int:
    """Show what process PID wrote, and its syscalls."""
    reply = ask_kernel(ReadLog(pid), LogReply)
    if as_json:
        print_json(reply)
        return 0
    screen = Screen()
    screen.write(reply.output)
    screen.write("" if reply.output.endswith("\n") or not reply.output else "\n")
    began = min((row.started_at for row in reply.rows), default=0.0)
    header = ("STRAND", "SEQ", "AT", "TOOK", "STATE", "CALL", "RESULT")
    print_table(header, (_call_row(row, began) for row in reply.rows))
    return 0


@click.command()
@click.argument("pid", type=PID)
@click.option(
    "-s",
    "--signal",
    "name",
    type=click.Choice(get_args(SignalName), case_sensitive=False),
    default="TERM",
    show_default=True,
)
def kill(pid: int, name: SignalName) -> int:
    """Send process PID a signal."""
    if ask_kernel(Kill(pid, name), KillReply).reply.delivered:
        return 0
    show_failure(f"process {pid} is not running", "`llmos ps` shows the processes")
    return EXIT_STATE


def ask_kernel(request: FromTerminal, answer: type[T]) -> T:
    """Make one request of the kernel, which is booted for it if none runs."""

    async def ask() -> T:
        async with reach_kernel(config) as connection:
            return await connection.request(request, answer)

    config = load_config(os.environ)
    return anyio.run(retry_once, ask)


def _process_row(info: ProcessInfo) -> tuple[str, ...]:
    tokens = f"{info.prompt_tokens}+{info.completion_tokens}"
    started = datetime.fromtimestamp(info.started_at).strftime("%m-%d %H:%M:%S")
    command = " ".join((info.app, *info.argv))
    return (
        str(info.pid),
        _or_dash(info.parent),
        info.state if info.exit_status is None else info.exit_status,
        _or_dash(info.exit_code),
        tokens,
        info.model,
        started,
        command,
    )


def _call_row(row: LogRow, began: float) -> tuple[str, ...]:
    at = format_seconds(row.started_at - began)
    took = "-" if row.ended_at is None else format_seconds(row.ended_at - row.started_at)
    return row.strand, str(row.seq), at, took, row.state, row.name, row.summary


def _or_dash(value: Any) -> str:
    return "-" if value is None else str(value)
