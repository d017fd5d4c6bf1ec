"""`llmos inspect`, `replay` and `fork` as people use them."""

import json

import click
import pytest

from llmos.bin.timetravel import describe, describe_success, parse_override
from llmos.kernel.protocol import Divergence, ReplayReport

from .conftest import Llmos

APP = """
from llmos import app

@app
async def main(sys, name: str = "you") -> str:
    number = await sys.random()
    context = await sys.context("Be brief.")
    answer = await context.generate(f"hello {name} and all the others")
    await context.user(answer.text)
    await sys.print(answer.text)
    return str(number)
"""
MANIFEST = """
[app]
name = "greet"
version = "1"
main = "greet:main"
[capabilities]
generate = { models = ["*"] }
"""


def greet(llmos: Llmos) -> Llmos:
    """Let process 1 run and end after five calls."""
    folder = llmos.work / "greet"
    folder.mkdir()
    (folder / "app.toml").write_text(MANIFEST)
    (folder / "greet.py").write_text(APP)
    ran = llmos.run("run", "--model", "echo", "./greet", "Ada")
    assert ran.returncode == 0, ran.stderr
    return llmos


@pytest.fixture(scope="module")
def greeted(tmp_path_factory: pytest.TempPathFactory) -> Llmos:
    """llmos with an ended process 1, for tests that change nothing."""
    return greet(Llmos(tmp_path_factory.mktemp("greeted")))


def change(llmos: Llmos, old: str, new: str) -> None:
    code = llmos.work / "greet" / "greet.py"
    code.write_text(code.read_text().replace(old, new))


def test_a_replay_that_fits_is_quiet_and_exits_with_0(greeted: Llmos) -> None:
    ran = greeted.run("replay", "1")

    assert (ran.returncode, ran.stdout) == (0, "")
    assert ran.stderr == "llmos: process 1 made the same 5 calls again, to the same end\n"


def test_a_replay_that_diverges_names_the_step_and_exits_with_1(llmos: Llmos) -> None:
    greeted = greet(llmos)
    change(greeted, "and all", "or all")

    ran = greeted.run("replay", "1")
    report = json.loads(greeted.run("replay", "--json", "1").stdout)

    assert (ran.returncode, ran.stdout) == (1, "")
    assert "diverges at step 0:2 (call 3): " in ran.stderr
    assert "or all the others" in ran.stderr
    assert "fix: keep the old way beside the new one with sys.patch" in ran.stderr
    assert ran.stderr.count("\n") == 2
    assert (report["num_replayed"], report["divergence"]["came"]) == (2, "generate")


def test_the_log_numbers_calls_for_fork_and_inspect(greeted: Llmos) -> None:
    logged = greeted.run("log", "1").stdout
    rows = json.loads(greeted.run("log", "--json", "1").stdout)["rows"]

    assert [row["number"] for row in rows] == [1, 2, 3, 4, 5]
    assert any(line.split()[:3] == ["3", "0", "2"] for line in logged.splitlines())


def test_a_fork_goes_its_own_way_from_a_step_on(llmos: Llmos) -> None:
    greeted = greet(llmos)
    ran = greeted.run("fork", "1", "--at", "2", "--set", "max_tokens=2")
    first, second = json.loads(greeted.run("ps", "--json").stdout)

    assert (ran.returncode, ran.stdout) == (0, "hello Ada\n"), ran.stderr
    assert "process 2 goes on after 2 finished calls" in ran.stderr
    assert (second["app"], second["argv"]) == (first["app"], first["argv"])
    assert greeted.run("replay", "2").returncode == 0


def test_inspect_shows_what_was_at_a_step(greeted: Llmos) -> None:
    shown = greeted.run("inspect", "1", "--at", "2")
    whole = json.loads(greeted.run("inspect", "1", "--json").stdout)

    assert shown.returncode == 0, shown.stderr
    assert "after 2 of 5 calls" in shown.stdout
    assert "Be brief." in shown.stdout
    assert "hello Ada" not in shown.stdout
    assert whole["output"] == "hello Ada and all the others\n"
    assert [one["role"] for one in whole["contexts"]["1"]] == ["system", "user"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("replay", "99"), 2, "no process 99"),
        (("replay", "x"), 2, "x"),
        (("inspect", "99"), 2, "no process 99"),
        (("inspect", "1", "--at", "x"), 2, "x"),
        (("inspect", "1", "--at", "6"), 2, "has made 5 calls, not 6\nfix: --at 5"),
        (("fork", "1"), 2, "--at"),
        (("fork", "1", "--at", "-1"), 2, "-1"),
        (("fork", "1", "--at", "6"), 2, "has made 5 calls, not 6\nfix: --at 5"),
        (("fork", "99", "--at", "0"), 2, "no process 99"),
        (("fork", "1", "--at", "1", "--set", "heat=1"), 2, "no field 'heat'"),
        (("fork", "1", "--at", "1", "--set", "temperature=9"), 2, "(sampling.temperature)"),
        (("fork", "1", "--at", "1", "--set", "temperature"), 2, "not FIELD=VALUE"),
        (("trace", "99"), 2, "no process 99"),
        (("trace", "1", "--chrome", "nowhere/x.json"), 2, "no folder nowhere"),
    ],
)
def test_a_mistake_is_one_or_two_lines_and_its_exit_code(
    greeted: Llmos, words: tuple[str, ...], code: int, said: str
) -> None:
    ran = greeted.run(*words)

    assert (ran.returncode, ran.stdout) == (code, ""), ran.stderr
    assert said in ran.stderr
    assert ran.stderr.count("\n") <= 2


@pytest.mark.slow
def test_the_daemon_replays_and_forks_what_it_runs(llmos: Llmos) -> None:
    greeted = greet(llmos)
    assert greeted.run("start").returncode == 0
    try:
        ran = greeted.run("run", "-d", "--model", "echo", "ask", "!slow 100 " + "word " * 1000)
        pid = ran.stdout.strip()
        replayed = greeted.run("replay", pid)
        forked = greeted.run("fork", "1", "--at", "1", "-d")
        inspected = greeted.run("inspect", pid, "--json")
    finally:
        greeted.run("stop")

    assert replayed.returncode == 0, replayed.stderr
    assert "as far as its journal goes" in replayed.stderr
    assert forked.stdout.strip().isdigit(), forked.stderr
    assert json.loads(inspected.stdout)["app"] == "ask"


@pytest.mark.parametrize(
    ("word", "name", "value"),
    [
        ("temperature=0.2", "temperature", 0.2),
        ("top_k=5", "top_k", 5),
        ('stop=["a", "b"]', "stop", ("a", "b")),
        ("seed=null", "seed", None),
    ],
)
def test_an_override_is_a_field_and_a_json_value(word: str, name: str, value: object) -> None:
    assert parse_override(word) == (name, value)


@pytest.mark.parametrize("word", ["temperature=", "temperature=warm", "stop={}", "x=true", ""])
def test_an_override_that_is_none_is_a_usage_error(word: str) -> None:
    with pytest.raises(click.UsageError, match="not FIELD=VALUE"):
        parse_override(word)


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (ReplayReport(1, 3, 3, False, False, None), "the same 3 calls again, to the same end"),
        (ReplayReport(1, 3, 3, True, False, None), "as far as its journal goes"),
        (ReplayReport(1, 3, 3, False, True, None), "its code has changed meanwhile"),
    ],
)
def test_a_success_says_how_far_it_goes(report: ReplayReport, said: str) -> None:
    assert said in describe_success(report)


@pytest.mark.parametrize(
    ("divergence", "said"),
    [
        (
            Divergence("0:2", 3, "now", "aa", "random", "bb", "{}", "why"),
            "step 0:2 (call 3): the journal has now (digest aa), the app made random {} (digest",
        ),
        (
            Divergence("0:2", None, None, None, "now", "bb", "{}", "why"),
            "step 0:2: the journal has no call, the app made now {} (digest bb); why",
        ),
        (
            Divergence("0:2", 3, "now", "aa", None, None, None, "why"),
            "the journal has now (digest aa), the app made no call; why",
        ),
        (Divergence(None, None, None, None, None, None, None, "code 0, not 1"), "ends otherwise"),
    ],
)
def test_a_divergence_shows_both_sides(divergence: Divergence, said: str) -> None:
    assert said in describe(divergence)
