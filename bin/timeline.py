"""A timeline: calls as Chrome's trace events, a process per process and a track per strand.

Source: the Trace Event Format, https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
Slices of one track never overlap: a strand whose calls do has as many tracks as it needs.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from llmos.kernel.protocol import LogRow
from llmos.syscalls.process import ProcessInfo

MAX_TITLE_CHARS = 80
LIFE = 0  # the track of the process itself
Event = dict[str, Any]
Calls = tuple[ProcessInfo, Sequence[LogRow]]


def make_timeline(traced: Sequence[Calls]) -> list[Event]:
    """All events, names of tracks first and then in the order of time, longer ones first."""
    begun = [info.started_at for info, _ in traced]
    begun += [row.started_at for _, rows in traced for row in rows]
    ends = [row.ended_at or row.started_at for _, rows in traced for row in rows]
    ends += [info.ended_at or info.started_at for info, _ in traced]
    scale = _Scale(min(begun), max(ends))
    events = [event for calls in traced for event in _show_process(scale, *calls)]
    events += _show_spawns(events)
    return sorted(events, key=lambda event: (event["ph"] != "M", event["ts"], -event.get("dur", 0)))


class _Scale:
    """Whole microseconds since the first moment; what has not ended lasts to the last one."""

    def __init__(self, first: float, last: float) -> None:
        self._first = first
        self._last = last

    def place(self, start: float, end: float | None) -> tuple[int, int]:
        """Where something begins and how long it is. A clock that was set back makes it short."""
        ts = round((start - self._first) * 1e6)
        until = round(((self._last if end is None else end) - self._first) * 1e6)
        return ts, max(0, until - ts)


def _show_process(scale: _Scale, info: ProcessInfo, rows: Sequence[LogRow]) -> Iterator[Event]:
    title = " ".join((info.app, *info.argv))[:MAX_TITLE_CHARS]
    yield _name("process_name", info.pid, LIFE, title)
    yield _name("thread_name", info.pid, LIFE, "process")
    started_at = min([info.started_at, *(row.started_at for row in rows)])
    ts, dur = scale.place(started_at, info.ended_at)
    args = {
        "state": info.exit_status or info.state,
        "model": info.model,
        "prompt_tokens": info.prompt_tokens,
        "completion_tokens": info.completion_tokens,
    }
    yield _slice(info.pid, LIFE, title, ts, dur, args)
    by_strand: dict[str, list[LogRow]] = {}
    for row in sorted(rows, key=lambda row: (row.started_at, row.number)):
        by_strand.setdefault(row.strand, []).append(row)
    track = LIFE
    for strand in sorted(by_strand, key=lambda strand: [int(part) for part in strand.split(".")]):
        for events in _lay_out(scale, info.pid, by_strand[strand]):
            track += 1
            yield _name("thread_name", info.pid, track, f"strand {strand}")
            yield from ({**event, "tid": track} for event in events)


def _lay_out(scale: _Scale, pid: int, rows: Sequence[LogRow]) -> list[list[Event]]:
    """A strand's calls on as few tracks as hold them without an overlap."""
    tracks: list[list[Event]] = []
    for row in rows:
        ts, dur = scale.place(row.started_at, row.ended_at)
        event = _slice(pid, LIFE, row.name, ts, dur, _describe(row))
        free = (track for track in tracks if track[-1]["ts"] + track[-1]["dur"] <= ts)
        track = next(free, None)
        if track is None:
            track = []
            tracks.append(track)
        track.append(event)
    return tracks


def _describe(row: LogRow) -> Event:
    """What a click on a slice shows."""
    args: Event = {
        "call": row.number,
        "step": f"{row.strand}:{row.seq}",
        "state": row.state,
        "digest": row.digest,
        "result": row.summary,
    }
    if row.num_branches:
        args["branches"] = row.num_branches
        args["prompt_tokens"] = row.prompt_tokens
        args["completion_tokens"] = row.completion_tokens
    if row.child is not None:
        args["child"] = row.child
    return args


def _show_spawns(events: Sequence[Event]) -> Iterator[Event]:
    """An arrow from each spawn to the process that came of it."""
    lives = {event["pid"]: event for event in events if event["ph"] == "X" and not event["tid"]}
    for spawn in events:
        child = lives.get(spawn.get("args", {}).get("child"))
        if child is None:
            continue
        arrow = {"cat": "spawn", "name": "spawn", "id": child["pid"]}
        start = {"ph": "s", "pid": spawn["pid"], "tid": spawn["tid"], "ts": spawn["ts"]}
        yield arrow | start
        yield arrow | {"ph": "f", "bp": "e", "pid": child["pid"], "tid": LIFE, "ts": child["ts"]}


def _slice(pid: int, tid: int, name: str, ts: int, dur: int, args: Event) -> Event:
    about = {"ph": "X", "pid": pid, "tid": tid, "name": name, "cat": "llmos"}
    return {**about, "ts": ts, "dur": dur, "args": args}


def _name(kind: str, pid: int, tid: int, name: str) -> Event:
    return {"ph": "M", "pid": pid, "tid": tid, "ts": 0, "name": kind, "args": {"name": name}}
