"""`llmos trace`: a tree for people, and events that Perfetto opens."""

import json
from collections import defaultdict
from itertools import pairwise
from typing import Any

from llmos.bin.timeline import Calls, make_timeline
from llmos.bin.tracing import Traced, make_tree
from llmos.kernel.protocol import LogRow
from llmos.syscalls.process import ProcessInfo

from .conftest import Llmos

Event = dict[str, Any]


def info(pid: int, parent: int | None, start: float, end: float | None) -> ProcessInfo:
    status = None if end is None else "exited"
    state = "READY" if end is None else "ZOMBIE"
    about = (pid, parent, "app", ("x",), state, "echo", start, end)
    return ProcessInfo(*about, status, None, 7, 3)  # type: ignore[arg-type]


def row(
    number: int, strand: str, name: str, start: float, end: float | None, **more: Any
) -> LogRow:
    state = "INTENT" if end is None else "DONE"
    return LogRow(number, strand, number, name, state, start, end, "{}", "ab", **more)


FAMILY: list[Calls] = [
    (
        info(1, None, 100.0, 101.0),
        [
            row(1, "0", "generate", 100.1, 100.2, num_branches=3, completion_tokens=3),
            row(2, "0", "spawn", 100.2, 100.25, child=2),
            row(3, "0.1", "sleep", 100.3, 100.6),
            row(4, "0.2", "sleep", 100.3, 100.5),
            row(5, "0", "print", 100.7, 100.8),
            row(6, "0", "now", 100.75, 100.9),  # beside the call before it, in one strand
        ],
    ),
    (info(2, 1, 100.22, None), [row(1, "0", "ask", 100.3, None)]),
]


def slices(events: list[Event]) -> dict[tuple[int, int], list[Event]]:
    """The complete events by track, in the order of the file."""
    tracks = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            tracks[event["pid"], event["tid"]].append(event)
    return tracks


def require_form(events: list[Event]) -> None:
    """What the format asks of every event, and of events beside each other."""
    for event in events:
        assert {"ph", "ts", "pid", "tid", "name"} <= event.keys()
        assert all(isinstance(event[key], int) for key in ("ts", "pid", "tid"))
        assert event["ts"] >= 0
        assert event["ph"] != "X" or (isinstance(event["dur"], int) and event["dur"] >= 0)
    timed = [event["ts"] for event in events if event["ph"] != "M"]
    assert timed == sorted(timed)
    for track in slices(events).values():
        for before, after in pairwise(track):
            inside = after["ts"] + after["dur"] <= before["ts"] + before["dur"]
            assert inside or before["ts"] + before["dur"] <= after["ts"]


def test_the_events_have_the_form_that_perfetto_reads() -> None:
    require_form(make_timeline(FAMILY))


def test_there_is_a_track_for_each_strand_and_one_more_where_its_calls_overlap() -> None:
    events = make_timeline(FAMILY)

    names = [e["args"]["name"] for e in events if e["name"] == "thread_name" and e["pid"] == 1]
    assert names == ["process", "strand 0", "strand 0", "strand 0.1", "strand 0.2"]


def test_a_slice_is_as_long_as_its_call_and_tells_about_it() -> None:
    first = next(e for e in make_timeline(FAMILY) if e["name"] == "generate")

    assert (first["ts"], first["dur"]) == (100_000, 100_000)
    told = {"step": "0:1", "state": "DONE", "digest": "ab", "branches": 3, "completion_tokens": 3}
    assert told.items() <= first["args"].items()


def test_an_arrow_leads_from_a_spawn_to_its_child() -> None:
    start, end = [event for event in make_timeline(FAMILY) if event["ph"] in "sf"]

    assert (start["ph"], start["pid"], start["id"]) == ("s", 1, 2)
    assert (end["ph"], end["pid"], end["tid"], end["bp"]) == ("f", 2, 0, "e")


def test_what_has_not_ended_lasts_to_the_end() -> None:
    asked = next(event for event in make_timeline(FAMILY) if event["name"] == "ask")

    assert asked["ts"] + asked["dur"] == 1_000_000


def test_a_clock_that_was_set_back_makes_no_negative_time() -> None:
    rows = [row(1, "0", "sleep", 100.0, 90.0), row(2, "0", "now", 90.0, 90.1)]

    require_form(make_timeline([(info(1, None, 100.0, 90.2), rows)]))


def test_the_tree_has_children_below_their_spawn_and_branches_below_their_strand() -> None:
    lines = list(make_tree([Traced(process, list(rows)) for process, rows in FAMILY]))

    assert [line[-1] for line in lines] == [
        "1 app x",
        "  0:1 generate x3",
        "  0:2 spawn",
        "    2 app x",
        "      0:1 ask",
        "    0.1:3 sleep",
        "    0.2:4 sleep",
        "  0:5 print",
        "  0:6 now",
    ]
    assert lines[1][:4] == ("100.0 ms", "100.0 ms", "0+3", "DONE")
    assert lines[4][:4] == ("300.0 ms", "-", "-", "INTENT")


def test_a_run_is_traced_into_a_file(llmos: Llmos) -> None:
    llmos.run("run", "--model", "echo", "ask", "hello there")

    ran = llmos.run("trace", "1", "--chrome", "trace.json")
    tree = llmos.run("trace", "1")
    listed = json.loads(llmos.run("trace", "1", "--json").stdout)

    assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr
    events = json.loads((llmos.work / "trace.json").read_text())["traceEvents"]
    require_form(events)
    assert "generate" in {event["name"] for event in events}
    assert tree.returncode == 0, tree.stderr
    assert "generate" in tree.stdout
    assert [one["process"]["pid"] for one in listed] == [1]
