"""llmos as people use it: the program itself, on the echo model."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Llmos

DEADLINE_SECONDS = 30
MAX_LOOKS = 50
ECHO = ("--model", "echo")


@pytest.fixture
def daemon(llmos: Llmos) -> Iterator[Llmos]:
    """llmos with a daemon that runs."""
    started = llmos.run("start")
    assert started.returncode == 0, started.stderr
    yield llmos
    llmos.run("stop")


def say(terminal: "subprocess.Popen[str]", line: str) -> None:
    """Type a line into a chat and wait for its echo."""
    assert terminal.stdin is not None
    assert terminal.stdout is not None
    terminal.stdin.write(f"{line}\n")
    terminal.stdin.flush()
    assert terminal.stdout.readline() == f"{line}\n"


def test_run_answers_on_stdout_alone(llmos: Llmos) -> None:
    ran = llmos.run("run", *ECHO, "ask", "hello", "there")

    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "hello there\n", "")


def test_a_tool_that_ran_is_shown_on_stderr(llmos: Llmos) -> None:
    ran = llmos.run("run", *ECHO, "ask", '!tool calculator {"expression": "17 * 23"}')

    assert (ran.returncode, ran.stdout) == (0, "calculator: 391\n"), ran.stderr
    assert '· calculator {"expression": "17 * 23"} → 391' in ran.stderr


def test_words_behind_the_app_are_its_own(llmos: Llmos) -> None:
    ran = llmos.run("run", *ECHO, "ask", "--", "--help", "--model", "-d")

    assert (ran.returncode, ran.stdout) == (0, "--help --model -d\n")


def test_a_question_is_asked_for_and_read_from_stdin(llmos: Llmos) -> None:
    ran = llmos.run("run", *ECHO, "ask", typed="from a pipe\n")

    assert (ran.returncode, ran.stdout) == (0, "from a pipe\n"), ran.stderr


def test_chat_remembers_from_one_run_to_the_next(llmos: Llmos) -> None:
    llmos.run("chat", *ECHO, "my cat is called Miso")

    ran = llmos.run("chat", *ECHO, "what is my cat called?")

    notes = "Notes from memory:\n- my cat is called Miso\n\nwhat is my cat called?\n"
    assert (ran.returncode, ran.stdout) == (0, notes), ran.stderr


def test_a_file_that_is_named_may_be_read_wherever_it_is(llmos: Llmos, tmp_path: Path) -> None:
    (tmp_path / "report.txt").write_text("All is well.")

    ran = llmos.run("run", *ECHO, "summarize", str(tmp_path / "report.txt"))
    relative = llmos.run("run", *ECHO, "summarize", "../report.txt")

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.endswith("All is well.\n")
    assert (relative.returncode, relative.stdout) == (0, ran.stdout), relative.stderr


def test_ps_and_log_show_what_ran(llmos: Llmos) -> None:
    llmos.run("run", *ECHO, "ask", "hello")

    (info,) = json.loads(llmos.run("ps", "--json").stdout)
    logged = llmos.run("log", str(info["pid"]))

    assert (info["app"], info["argv"], info["exit_code"]) == ("ask", ["hello"], 0)
    assert logged.stdout.startswith("hello\n")
    assert "generate" in logged.stdout
    assert json.loads(llmos.run("log", "--json", str(info["pid"])).stdout)["output"] == "hello\n"


def test_the_shell_runs_a_script(llmos: Llmos) -> None:
    script = "ask one two\nask three &\nwait\nnonsense\nexit\n"

    ran = llmos.run("shell", *ECHO, typed=script)

    assert ran.returncode == 0, ran.stderr
    assert "one two\n" in ran.stdout
    assert "done  ask three" in ran.stdout
    assert "no app is called 'nonsense'" in ran.stdout


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("run",), 2, "which app?"),
        (("run", "nonsense"), 2, "no app is called 'nonsense'"),
        (("run", "./nowhere"), 2, "app.toml"),
        (("run", "--nonsense", "ask"), 2, "--nonsense"),
        (("run", "--resume", "99"), 2, "99"),
        (("run", "--resume", "0"), 2, "no process 0"),
        (("nonsense",), 2, "no command 'nonsense'"),
        (("statu",), 2, "llmos status"),
        (("log", "99"), 2, "there is no process 99"),
        (("log", "x"), 2, "x"),
        (("kill", "99"), 3, "99"),
        (("kill", "-s", "HUP", "1"), 2, "HUP"),
        (("app", "new", "A b"), 2, "no name for an app"),
        (("status",), 3, "no kernel is running"),
        (("run", *ECHO, "ask", "a" * 70_000), 2, "argv"),
        (("run", "--model", "", "ask", "hi"), 2, "(model)\nfix: `llmos model ls`"),
        (("run", *ECHO, "summarize", "--nonsense"), 2, "--nonsense"),
        (("run", *ECHO, "summarize", "nowhere.txt"), 1, "no such file"),
        (("run", *ECHO, "summarize", "/etc/hostname/x"), 6, "outside of the workspace"),
    ],
)
def test_a_mistake_is_one_or_two_lines_and_its_exit_code(
    llmos: Llmos, words: tuple[str, ...], code: int, said: str
) -> None:
    ran = llmos.run(*words)

    assert (ran.returncode, ran.stdout) == (code, ""), ran.stderr
    assert ran.stderr.startswith("llmos: ")
    assert said in ran.stderr
    assert ran.stderr.count("\n") <= 2


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("LLMOS_HOME", "/proc/nowhere", 3),
        ("LLMOS_NONSENSE", "1", 2),
        ("LLMOS_TOOL_TIMEOUT_SECONDS", "never", 2),
    ],
)
def test_a_bad_setting_is_named(llmos: Llmos, name: str, value: str, code: int) -> None:
    llmos.environ[name] = value

    for ran in (llmos.run("ps"), llmos.run(module="daemon")):
        assert ran.returncode == code
        assert name in ran.stderr
        assert ran.stderr.count("\n") <= 2


def test_an_app_that_crashes_shows_its_traceback_and_names_its_log(llmos: Llmos) -> None:
    llmos.run("app", "new", "broken")
    module = llmos.work / "broken" / "broken.py"
    module.write_text(module.read_text().replace("    text =", "    1 / 0\n    text ="))

    ran = llmos.run("run", *ECHO, "./broken")

    assert ran.returncode == 1
    traceback, _, verdict = ran.stderr.rpartition("llmos: ")
    assert "broken.py" in traceback
    assert "ZeroDivisionError" in verdict
    assert str(llmos.home / "logs") in verdict
    assert "runtime.py" not in verdict


def test_a_reader_that_leaves_is_no_error(llmos: Llmos) -> None:
    with llmos.start("syscalls") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()

        assert process.stderr.read() == ""


def test_ctrl_c_stops_the_answer_and_keeps_its_words(llmos: Llmos) -> None:
    with llmos.start("run", *ECHO, "ask", "!slow 50 " + "word " * 500) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.read(4)
        process.send_signal(signal.SIGINT)
        rest, said = process.stdout.read(), process.stderr.read()

    assert (first, process.returncode) == ("word", 130)
    assert set(rest.split()) <= {"word"}
    assert said == "llmos: interrupted\n"


def test_help_loads_nothing_heavy(llmos: Llmos) -> None:
    llmos.environ["PYTHONPROFILEIMPORTTIME"] = "1"

    ran = llmos.run("--help")

    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in ran.stderr.splitlines()}
    heavy = {"torch", "transformers", "sqlalchemy", "mcp", "rich", "prompt_toolkit", "sqlite3"}
    assert "click" in loaded
    assert loaded & heavy == set()


@pytest.mark.slow
def test_the_daemon_serves_and_stops(daemon: Llmos) -> None:
    again = daemon.run("start")
    status = json.loads(daemon.run("status", "--json").stdout)
    ran = daemon.run("run", *ECHO, "ask", "hello")
    stopped = daemon.run("stop")

    assert "already running" in again.stderr
    assert (ran.returncode, ran.stdout) == (0, "hello\n"), ran.stderr
    assert status["home"] == str(daemon.home)
    assert stopped.returncode == 0
    assert daemon.run("status").returncode == 3
    assert daemon.run("start").stderr.startswith("llmos: the kernel is ready")


@pytest.mark.slow
def test_a_second_daemon_is_refused_and_sigterm_ends_the_first(daemon: Llmos) -> None:
    second = daemon.run(module="daemon")
    os.kill(json.loads(daemon.run("status", "--json").stdout)["os_pid"], signal.SIGTERM)
    daemon.run("stop")

    assert second.returncode == 3
    assert second.stderr.startswith("llmos: another kernel runs on")
    assert "Traceback" not in (daemon.home / "logs" / "llmosd.log").read_text()


@pytest.mark.slow
def test_a_detached_process_is_listed_and_killed(daemon: Llmos) -> None:
    ran = daemon.run("run", "-d", *ECHO, "ask", "!slow 100 " + "word " * 1000)
    pid = ran.stdout.strip()

    assert pid.isdigit(), ran.stderr
    assert daemon.run("kill", pid, "-s", "KILL").returncode == 0
    statuses = (
        json.loads(daemon.run("ps", "--json").stdout)[-1]["exit_status"] for _ in range(MAX_LOOKS)
    )
    assert "killed" in statuses


@pytest.mark.slow
def test_a_process_outlives_its_kernel(daemon: Llmos) -> None:
    """kill -9 of the kernel; the new one goes on with the process where it was."""
    with daemon.start("run", *ECHO, "chat") as terminal:
        say(terminal, "the first line")
        os.kill(json.loads(daemon.run("status", "--json").stdout)["os_pid"], signal.SIGKILL)
        _, said = terminal.communicate(timeout=DEADLINE_SECONDS)

    assert terminal.returncode == 3
    assert "fix: llmos run --resume 1" in said
    resumed = daemon.run("run", "--resume", "1", typed="the second line\n")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.endswith("the second line\n")
    assert "the first line" not in resumed.stdout.partition("Notes from memory")[0]


@pytest.mark.slow
def test_two_terminals_share_one_kernel(llmos: Llmos) -> None:
    with llmos.start("run", *ECHO, "chat") as first:
        say(first, "hello")

        second = llmos.run("run", *ECHO, "ask", "hi")

        assert (second.returncode, second.stdout) == (0, "hi\n"), second.stderr
        _, said = first.communicate(timeout=DEADLINE_SECONDS)
    assert (first.returncode, said) == (0, "")


@pytest.mark.slow
def test_a_kernel_in_a_terminal_waits_for_the_others(llmos: Llmos) -> None:
    with llmos.start("run", *ECHO, "chat") as first, llmos.start("run", *ECHO, "chat") as second:
        say(first, "one")
        say(second, "two")

        for terminal in (first, second):
            terminal.stdin.close()  # type: ignore[union-attr]

        assert (first.wait(DEADLINE_SECONDS), second.wait(DEADLINE_SECONDS)) == (0, 0)


@pytest.mark.slow
def test_stop_reaches_a_kernel_in_another_terminal(llmos: Llmos) -> None:
    with llmos.start("run", *ECHO, "chat") as terminal:
        say(terminal, "one")

        assert llmos.run("stop").returncode == 0

        _, said = terminal.communicate(timeout=DEADLINE_SECONDS)
    assert terminal.returncode == 3
    assert "fix: llmos run --resume 1" in said
