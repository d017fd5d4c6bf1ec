"""Suite R1 in short: whatever is killed, nothing is lost and no effect comes twice."""

from pathlib import Path

import pytest

from llmos.memory.db import Database
from tests.faults.evidence import Evidence, append, count_proved, find_promises, judge
from tests.faults.kills import run
from tests.faults.player.player import Ack
from tests.faults.suite import find_wrong


def tell(*calls: str, run: str = "first", outcome: str = "DONE") -> list[Ack]:
    """What a player was told of these calls, one after the other."""
    return [Ack(run, "p", "0", seq, call, outcome, "d") for seq, call in enumerate(calls)]


def test_nothing_is_lost_or_repeated_however_often_something_is_killed() -> None:
    counts = run(8)

    assert find_wrong(counts) == {}
    assert counts["num_kernel_kills"] > 0
    assert counts["num_calls"] > 20


def test_kernels_that_find_no_journal_are_found_out() -> None:
    counts = run(3, is_weak=True)

    assert counts["num_lost"] > 0
    assert counts["num_repeated_effects"] > 0
    assert counts["num_repeated_output"] > 0


def test_an_answer_is_a_promise_once_a_durable_call_follows() -> None:
    assert count_proved(tell("now", "print", "now")) == 2
    assert count_proved(tell("now", "mark", "now")) == 1
    assert count_proved(tell("now", "random", "recall")) == 0


def test_an_end_stands_behind_all_that_the_last_run_was_told() -> None:
    acks = tell("now", run="first") + tell("now", "random", run="second")

    assert [ack.run for ack in find_promises(acks, has_ended=True).values()] == ["second"] * 2
    assert find_promises(acks, has_ended=False) == {}


def test_of_a_call_that_was_promised_twice_the_first_answer_counts() -> None:
    acks = tell("print", run="first") + tell("print", run="second")

    assert [ack.run for ack in find_promises(acks, has_ended=True).values()] == ["first"]


@pytest.mark.anyio
async def test_an_effect_that_came_twice_is_counted(tmp_path: Path) -> None:
    evidence = Evidence(tmp_path)
    for place in (b"p/0/1", b"p/0/2", b"p/0/1"):
        append(evidence.witness, place)
    db = Database.open(tmp_path / "llmos.db")

    counts, complaints = await judge(db, evidence)

    await db.aclose()
    assert find_wrong(counts) == {"num_repeated_effects": 1}
    assert complaints == ["num_repeated_effects: p/0/1 2 times"]
