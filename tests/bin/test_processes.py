"""`llmos ps`: what a process waits for is shown where one does."""

from datetime import datetime

import pytest

from llmos.bin.processes import describe_waits, show_processes
from llmos.syscalls.process import ProcessInfo, Waiting

NOON = datetime.now().replace(hour=12, minute=0, second=0, microsecond=0).timestamp()


def make_info(*waits: Waiting, left_because: str = "") -> ProcessInfo:
    return ProcessInfo(
        7, None, "ask", ("hi",), "EVICTED", "echo", 1.0, None, None, None, 0, 0, waits, left_because
    )  # fmt: skip


@pytest.mark.parametrize(
    ("wait", "words"),
    [
        (Waiting("timer", NOON), "until 12:00:00"),
        (Waiting("restart", NOON), "until 12:00:00, to start again"),
        (Waiting("child", None, 17), "for process 17"),
        (Waiting("person"), "for a person"),
        (Waiting("message"), "for mail"),
        (Waiting("message", NOON), "for mail until 12:00:00"),
    ],
)
def test_every_wait_has_its_words(wait: Waiting, words: str) -> None:
    assert describe_waits(make_info(wait)) == words


def test_another_days_time_has_its_date() -> None:
    then = datetime(2020, 2, 3, 4, 5, 6)

    assert describe_waits(make_info(Waiting("timer", then.timestamp()))) == "until 02-03 04:05:06"


def test_several_waits_stand_side_by_side_and_a_reason_in_their_place() -> None:
    waits = (Waiting("child", None, 17), Waiting("person"))

    assert describe_waits(make_info(*waits)) == "for process 17, for a person"
    assert describe_waits(make_info(left_because="no app.toml")) == "no app.toml"


def test_the_column_is_there_where_one_waits(capsys: pytest.CaptureFixture[str]) -> None:
    show_processes([make_info()])
    show_processes([make_info(), make_info(Waiting("person"))])

    without, with_ = capsys.readouterr().out.split("PID")[1:]
    assert "WAITS" not in without
    assert "WAITS" in with_
    assert "for a person" in with_
