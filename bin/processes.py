"""`llmos ps`, `log` and `kill`: see processes and signal them."""

import os
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any, TypeVar, get_args

import click
import msgspec

from llmos.kernel.config import load_config
from llmos.kernel.protocol import (
    FromTerminal,
    Kill,
    KillReply,
    ListProcesses,
    LogPiece,
    LogRow,
    ProcessListing,
    ReadLog,
)
from llmos.syscalls.errors import E_KERNEL
from llmos.syscalls.process import ProcessInfo, SignalName, Waiting

from .connection import Connection, KernelGone, reach_kernel, run_client
from .failure import EXIT_STATE, show_failure
from .outlet import Outlet, open_outlet
from .screen import Screen, format_seconds
from .tables import Table, print_json, print_table

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
        show_processes(found)
    return 0


def show_processes(found: Sequence[ProcessInfo]) -> None:
    """Print a table; what a process waits for has a column where one does."""
    header: tuple[str, ...] = ("PID", "PARENT", "STATE", "EXIT", "TOKENS", "MODEL", "STARTED")
    waits = [describe_waits(info) for info in found]
    if any(waits):
        header = (*header, "WAITS")
    rows = []
    for info, waiting in zip(found, waits, strict=True):
        *before, command = _process_row(info)
        rows.append((*before, waiting or "-", command) if any(waits) else (*before, command))
    print_table((*header, "APP"), rows)


def describe_waits(info: ProcessInfo) -> str:
    """What wakes a process that sleeps, or why one that was left does not go on."""
    return info.left_because or ", ".join(map(_describe_wait, info.waits))


def _describe_wait(wait: Waiting) -> str:
    match wait.kind:
        case "timer":
            return f"until {_show_time(wait.due_at)}"
        case "restart":
            return f"until {_show_time(wait.due_at)}, to start again"
        case "child":
            return f"for process {wait.pid}"
        case "person":
            return "for a person"
        case "message":
            return "for mail" + (f" until {_show_time(wait.due_at)}" if wait.due_at else "")


def _show_time(at: float | None) -> str:
    """A time of today by the clock, any other one with its date."""
    if at is None:
        return "-"
    then, now = datetime.fromtimestamp(at), datetime.now()
    return then.strftime("%H:%M:%S" if then.date() == now.date() else "%m-%d %H:%M:%S")


@click.command()
@click.argument("pid", type=PID)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def log(pid: int, as_json: bool) -> int:
    """Show what process PID wrote, and its syscalls."""
    show = show_log_as_json if as_json else show_log

    async def run() -> None:
        async with reach_kernel(config) as connection, open_outlet() as outlet:
            async with aclosing(read_log(connection, pid, outlet)) as pieces:
                await show(pieces, outlet)

    config = load_config(os.environ)
    run_client(run)
    return 0


async def read_log(
    connection: Connection, pid: int, outlet: Outlet
) -> AsyncGenerator[LogPiece, None]:
    """The pieces of a process's log, each when there is room to show it."""
    piece = await connection.request(ReadLog(pid), LogPiece)
    yield piece
    while not piece.is_last:
        await outlet.wait_for_room()
        try:
            piece = await connection.next_answer(LogPiece)
        except KernelGone as error:  # not to be tried again: half of it is shown
            raise E_KERNEL(error.message) from None
        yield piece


async def show_log(pieces: AsyncIterator[LogPiece], outlet: Outlet) -> None:
    """Show what the process wrote, then a line per call."""
    screen = Screen(outlet)
    table = Table(("CALL", "STRAND", "SEQ", "AT", "TOOK", "STATE", "NAME", "RESULT"))
    began: float | None = None
    async for piece in pieces:
        screen.write(piece.output)
        if piece.rows or piece.is_last:
            screen.end_line()
            began = piece.rows[0].started_at if began is None and piece.rows else began
            screen.write(table.format(_call_row(row, began or 0.0) for row in piece.rows))


async def show_log_as_json(pieces: AsyncIterator[LogPiece], outlet: Outlet) -> None:
    """Print one JSON object {"pid", "output", "rows"}, without ever holding all of it."""
    started = ended_output = has_rows = False
    async for piece in pieces:
        if not started:
            outlet.put(f'{{"pid":{piece.pid},"output":"')
            started = True
        outlet.put(_json(piece.output)[1:-1])
        if (piece.rows or piece.is_last) and not ended_output:
            outlet.put('","rows":[')
            ended_output = True
        for row in piece.rows:
            outlet.put(("," if has_rows else "") + _json(row))
            has_rows = True
    outlet.put("]}\n")


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
    return run_client(ask)


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()


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
    number = str(row.number)
    return number, row.strand, str(row.seq), at, took, row.state, row.name, row.summary


def _or_dash(value: Any) -> str:
    return "-" if value is None else str(value)
