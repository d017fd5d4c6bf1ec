"""`llmos trace`: when a process and its children did what: a tree, or a file for Perfetto."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import msgspec

from llmos.kernel.config import load_config
from llmos.kernel.protocol import LogRow, ReadTrace, TracePiece
from llmos.syscalls.errors import E_ARG
from llmos.syscalls.process import ProcessInfo

from .connection import reach_kernel, run_client
from .processes import PID
from .screen import format_seconds
from .tables import print_json, print_table
from .timeline import make_timeline

INDENT = "  "


class Traced(msgspec.Struct, frozen=True):
    """A process with its calls in the order in which they began."""

    process: ProcessInfo
    rows: list[LogRow]


@click.command()
@click.argument("pid", type=PID)
@click.option("--chrome", type=click.Path(path_type=Path), metavar="FILE", help="For Perfetto.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list of processes.")
def trace(pid: int, chrome: Path | None, as_json: bool) -> int:
    """Show when process PID and its children did what."""
    if chrome is not None and not chrome.parent.is_dir():
        raise E_ARG(f"there is no folder {chrome.parent}", field="chrome")
    traced = run_client(lambda: _collect(pid))
    if chrome is not None:
        events = make_timeline([(one.process, one.rows) for one in traced])
        document = {"traceEvents": events, "displayTimeUnit": "ms"}
        chrome.write_bytes(msgspec.json.encode(document))
        num_calls = sum(len(one.rows) for one in traced)
        click.echo(f"llmos: {num_calls} calls of {len(traced)} processes in {chrome}", err=True)
    elif as_json:
        print_json(traced)
    else:
        print_table(("AT", "TOOK", "TOKENS", "STATE", "CALL"), make_tree(traced))
    return 0


async def _collect(pid: int) -> list[Traced]:
    traced: list[Traced] = []
    async with reach_kernel(load_config(os.environ)) as connection:
        piece = await connection.request(ReadTrace(pid), TracePiece)
        while piece.process is not None or piece.rows:
            if piece.process is not None:
                traced.append(Traced(piece.process, []))
            traced[-1].rows.extend(piece.rows)
            piece = await connection.next_answer(TracePiece)
    return traced


def make_tree(traced: Sequence[Traced]) -> Iterator[tuple[str, ...]]:
    """A line per process and call: branches below their strand, children below their spawn.

    Times are counted from the first process's beginning.
    """
    by_pid = {one.process.pid: one for one in traced}
    yield from _grow(traced[0], by_pid, traced[0].process.started_at, 0)


def _grow(
    one: Traced, by_pid: dict[int, Traced], began: float, depth: int
) -> Iterator[tuple[str, ...]]:
    info = one.process
    command = " ".join((str(info.pid), info.app, *info.argv))
    state = info.state if info.exit_status is None else info.exit_status
    tokens = _show_tokens(info.prompt_tokens, info.completion_tokens)
    times = _show_times(info.started_at, info.ended_at, began)
    yield (*times, tokens, state, depth * INDENT + command)
    for row in one.rows:
        level = depth + 1 + row.strand.count(".")
        branches = f" x{row.num_branches}" if row.num_branches > 1 else ""
        name = f"{level * INDENT}{row.strand}:{row.seq} {row.name}{branches}"
        tokens = _show_tokens(row.prompt_tokens, row.completion_tokens)
        yield (*_show_times(row.started_at, row.ended_at, began), tokens, row.state, name)
        child = None if row.child is None else by_pid.pop(row.child, None)
        if child is not None:
            yield from _grow(child, by_pid, began, level + 1)


def _show_times(start: float, end: float | None, began: float) -> tuple[str, str]:
    """When something began, and how long it took; the clock may have been set back meanwhile."""
    took = "-" if end is None else format_seconds(max(0.0, end - start))
    return format_seconds(max(0.0, start - began)), took


def _show_tokens(num_prompt: int, num_completion: int) -> str:
    return f"{num_prompt}+{num_completion}" if num_prompt or num_completion else "-"
