"""`llmos model stats` and `trace`: what loaded models do, in figures and as a timeline."""

import os
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import click
import msgspec

from llmos.kernel.config import load_config
from llmos.kernel.protocol import FromTerminal, ModelStatsReply, ReadModelStats, TraceModel
from llmos.kernel.stats import StatsReply, TraceReply
from llmos.syscalls.errors import E_ARG, E_KERNEL

from .connection import run_client, try_connect
from .tables import print_json, print_table

_STEPS, _PHASES = 1, 2


def show_stats(name: str | None, *, as_json: bool) -> int:
    """Print what one loaded model, or each of them, has counted."""
    reply = run_client(lambda: _ask(ReadModelStats(name), ModelStatsReply))
    if as_json:
        print_json(reply.models)
        return 0
    for model, stats in reply.models.items():
        print_table((model, ""), describe(stats))
    if not reply.models:
        click.echo("llmos: no model runs in an executor", err=True)
    return 0


def write_trace(name: str | None, seconds: float, path: Path) -> int:
    """Record a model's steps and write them as Chrome's trace events."""
    if not path.parent.is_dir():
        raise E_ARG(f"there is no folder {path.parent}", field="output")
    click.echo(f"llmos: recording for {seconds:g} s", err=True)
    reply = run_client(lambda: _ask(TraceModel(seconds, name), TraceReply))
    events = list(make_events(reply))
    document = {"traceEvents": events, "displayTimeUnit": "ms", "startedAt": reply.started_at}
    path.write_bytes(msgspec.json.encode(document))
    left_out = f", {reply.num_steps_left_out} more left out" if reply.num_steps_left_out else ""
    click.echo(f"llmos: {len(reply.steps)} steps in {path}{left_out}", err=True)
    return 0


async def _ask(message: FromTerminal, answer: type[Any]) -> Any:
    """The running kernel's answer. E_KERNEL without one: nothing has been counted then."""
    config = load_config(os.environ)
    connection = await try_connect(config)
    if connection is None:
        raise E_KERNEL(f"no kernel is running on {config.home}; fix: llmos start")
    async with aclosing(connection):
        return await connection.request(message, answer)


def describe(stats: StatsReply) -> Iterator[tuple[str, str]]:
    """The lines of the table, in words."""
    yield (
        "generations",
        f"{stats.num_running} running, {stats.num_waiting} waiting,"
        f" {stats.num_loading} loading pages, {stats.num_paused} paused",
    )
    yield "steps", f"{stats.num_steps:,}, {stats.num_preemptions:,} preemptions"
    yield "tokens", _list(stats.num_tokens)
    yield "found in pages", _describe_hits(stats)
    num_used = stats.num_pages - stats.num_pages_free - stats.num_pages_cached
    yield (
        "pages on the device",
        f"{stats.num_pages:,} of {stats.page_bytes:,} bytes:"
        f" {num_used:,} in use, {stats.num_pages_cached:,} cached, {stats.num_pages_free:,} free",
    )
    yield "pages below", f"host {stats.num_pages_on_host:,}, disk {stats.num_pages_on_disk:,}"
    owners = sorted(stats.num_pages_by_owner.items(), key=lambda pair: -pair[1])
    yield "pages by process", _list({str(pid): count for pid, count in owners[:10]})
    yield "pages given up", _list(stats.num_evictions)
    yield "bytes moved", _list(stats.num_bytes_moved)
    yield "out of memory", f"{stats.num_out_of_memory:,} steps"
    busy = sum(seconds for phase, seconds in stats.seconds.items() if phase != "idle")
    for phase, seconds in sorted(stats.seconds.items(), key=lambda pair: -pair[1]):
        share = f", {seconds / busy:.1%} of the time with work" if phase != "idle" and busy else ""
        yield f"seconds in {phase}", f"{seconds:.3f}{share}"


def _list(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "none"


def _describe_hits(stats: StatsReply) -> str:
    """How many of the tokens that had to be in pages were there already."""
    num_cached = stats.num_tokens.get("cached", 0)
    num_computed = sum(stats.num_tokens.get(kind, 0) for kind in ("prefill", "scored"))
    rate = num_cached / max(num_cached + num_computed, 1)
    return f"{rate:.1%} of prompt tokens; pages: {_list(stats.num_page_hits)}"


def make_events(trace: TraceReply) -> Iterator[dict[str, Any]]:
    """Chrome's trace events: steps and phases as slices on two tracks, and counters.

    Source: the Trace Event Format, https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
    """
    for thread, title in ((_STEPS, "steps"), (_PHASES, "phases")):
        about = {"name": "thread_name", "args": {"name": title}}
        yield {"ph": "M", "pid": 1, "tid": thread, **about}
    for step in trace.steps:
        times = {"ts": step.start_us, "dur": step.duration_us}
        args = msgspec.structs.asdict(step)
        yield {"ph": "X", "pid": 1, "tid": _STEPS, "name": "step", **times, "args": args}
        at = step.start_us + step.duration_us
        generations = {"running": step.num_running, "waiting": step.num_waiting}
        pages = {"in use": step.num_pages_in_use, "cached": step.num_pages_cached}
        tokens = {"decode": step.num_decodes, "prefill": step.num_prefill_tokens}
        for name, values in (("generations", generations), ("pages", pages), ("tokens", tokens)):
            yield {"ph": "C", "pid": 1, "tid": 0, "ts": at, "name": name, "args": values}
    for span in trace.spans:
        times = {"ts": span.start_us, "dur": span.duration_us}
        yield {"ph": "X", "pid": 1, "tid": _PHASES, "name": span.phase, **times}
