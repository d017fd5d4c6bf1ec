"""A terminal that is closed takes its own processes along, and those of no other terminal."""

import json
import signal

import pytest

from .conftest import Llmos

ECHO = ("--model", "echo")
DEADLINE_SECONDS = 30
SLOW = "!slow 50 " + "word " * 500


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGHUP, 129), (signal.SIGTERM, 143)], ids=["HUP", "TERM"]
)
def test_its_process_has_ended_and_cannot_be_resumed(
    llmos: Llmos, number: signal.Signals, code: int
) -> None:
    with llmos.start("run", *ECHO, "ask", SLOW) as terminal:
        assert terminal.stdout is not None
        terminal.stdout.read(4)
        terminal.send_signal(number)
        assert terminal.wait(DEADLINE_SECONDS) == code

    (info,) = json.loads(llmos.run("ps", "--json").stdout)
    again = llmos.run("run", "--resume", "1")

    assert (info["state"], info["exit_status"]) == ("ZOMBIE", "killed")
    assert again.returncode == 2
    assert "process 1 was ended by the end of its terminal" in again.stderr
    assert "fix: llmos run ask" in again.stderr


def test_the_hang_up_that_a_shell_sends_once_more_changes_nothing(llmos: Llmos) -> None:
    with llmos.start("run", *ECHO, "ask", SLOW) as terminal:
        assert terminal.stdout is not None
        terminal.stdout.read(4)
        for _ in range(3):
            terminal.send_signal(signal.SIGHUP)
        assert terminal.wait(DEADLINE_SECONDS) == 129

    (info,) = json.loads(llmos.run("ps", "--json").stdout)
    assert info["exit_status"] == "killed"


@pytest.mark.slow
def test_a_process_of_another_terminal_goes_on(llmos: Llmos) -> None:
    with llmos.start("run", *ECHO, "chat") as first:
        assert first.stdin is not None
        assert first.stdout is not None
        first.stdin.write("one\n")
        first.stdin.flush()
        assert first.stdout.readline() == "one\n"
        with llmos.start("run", *ECHO, "ask", "!slow 100 a b c d e f g h i j") as second:
            assert second.stdout is not None
            begun = second.stdout.read(1)
            first.send_signal(signal.SIGHUP)

            out, err = second.communicate(timeout=DEADLINE_SECONDS)
        assert (second.returncode, begun + out) == (0, "a b c d e f g h i j\n"), err
        assert first.wait(DEADLINE_SECONDS) == 129


def test_what_a_dead_kernel_left_behind_is_listed_and_can_be_ended(llmos: Llmos) -> None:
    with llmos.start("run", *ECHO, "ask", SLOW) as terminal:
        assert terminal.stdout is not None
        terminal.stdout.read(4)
        terminal.kill()

    (left,) = json.loads(llmos.run("ps", "--json").stdout)
    ended = llmos.run("kill", "1")
    (killed,) = json.loads(llmos.run("ps", "--json").stdout)

    assert (left["state"], left["exit_status"]) == ("EVICTED", None)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert (killed["state"], killed["exit_status"], killed["exit_code"]) == ("ZOMBIE", "killed", 7)
