"""`llmos model stats` and `trace`: what a running model does, for people and for Perfetto."""

import json

import pytest

from llmos.bin.modelstats import describe, make_events
from llmos.kernel.stats import Span, StatsReply, StepRecord, TraceReply

from .conftest import Llmos

STATS = StatsReply(
    2, 1, 0, 100, 60, 30, 50, 3, 0, 0, 0,
    num_tokens={"prefill": 100, "decode": 40, "cached": 300},
    num_pages_by_owner={7: 12, 8: 28},
    seconds={"idle": 5.0, "forward": 3.0, "plan": 1.0},
)  # fmt: skip
TRACE = TraceReply(
    1000.0,
    (Span("plan", 10, 5), Span("forward", 15, 85)),
    (StepRecord(10, 95, 3, 0, 3, 2, 9, 4),),
)


def test_the_table_says_who_holds_pages_and_where_the_time_went() -> None:
    lines = dict(describe(STATS))

    assert lines["tokens"] == "prefill 100, decode 40, cached 300"
    assert lines["found in pages"].startswith("75.0% of prompt tokens")
    assert lines["pages by process"] == "8 28, 7 12"
    assert "10 in use, 30 cached, 60 free" in lines["pages on the device"]
    assert lines["seconds in forward"] == "3.000, 75.0% of the time with work"
    assert lines["seconds in idle"] == "5.000"


def test_a_trace_has_slices_within_slices_and_counters() -> None:
    events = list(make_events(TRACE))

    slices = [one for one in events if one["ph"] == "X"]
    step, *phases = slices
    assert [one["name"] for one in slices] == ["step", "plan", "forward"]
    for phase in phases:
        assert step["ts"] <= phase["ts"]
        assert phase["ts"] + phase["dur"] <= step["ts"] + step["dur"]
    counters = {one["name"]: one["args"] for one in events if one["ph"] == "C"}
    assert counters["generations"] == {"running": 3, "waiting": 2}
    assert counters["pages"] == {"in use": 9, "cached": 4}
    assert all({"ph", "pid", "tid", "name"} <= one.keys() for one in events)


@pytest.mark.parametrize("words", [("stats",), ("trace", "--seconds", "0.1")])
def test_without_a_kernel_there_is_nothing_to_see(llmos: Llmos, words: tuple[str, ...]) -> None:
    ran = llmos.run("model", *words)

    assert (ran.returncode, ran.stdout) == (3, "")
    assert "no kernel is running" in ran.stderr
    assert not list(llmos.work.iterdir())


def test_a_folder_that_is_not_there_is_said_before_anything_is_recorded(llmos: Llmos) -> None:
    ran = llmos.run("model", "trace", "-o", "nowhere/trace.json")

    assert (ran.returncode, ran.stderr.splitlines()[0]) == (2, "llmos: there is no folder nowhere")


@pytest.mark.slow
def test_a_running_model_is_seen_at_work(llmos: Llmos) -> None:
    assert llmos.run("start").returncode == 0
    try:
        unloaded = llmos.run("model", "stats")
        llmos.run("run", "--model", "demo", "ask", "hello")
        stats = json.loads(llmos.run("model", "stats", "demo", "--json").stdout)["demo"]
        recorder = llmos.start("model", "trace", "--seconds", "3", "-o", "steps.json")
        llmos.run("run", "--model", "demo", "ask", "hello again")
        _, said = recorder.communicate(timeout=60)
        echo = llmos.run("model", "stats", "echo")
    finally:
        llmos.run("stop")

    assert (unloaded.returncode, "no model is loaded" in unloaded.stderr) == (4, True)
    assert stats["num_tokens"]["decode"] > 0
    assert stats["seconds"]["forward"] > 0
    assert recorder.returncode == 0, said
    events = json.loads((llmos.work / "steps.json").read_text())["traceEvents"]
    assert {"step", "forward", "sample", "plan"} <= {one["name"] for one in events}
    assert (echo.returncode, "echo is not loaded" in echo.stderr) == (4, True)
