"""A reader who pauses, as a pager does, stalls the app that writes and nobody else."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Llmos

ECHO = ("--model", "echo")
DEADLINE_SECONDS = 30
NUM_PRINTS = 20
# A print is more than a pipe holds: its reader pauses as soon as the first byte is there.
PRINTER = f"""
    for number in range({NUM_PRINTS}):
        with open("printed", "a") as file:
            file.write(".")
        await sys.print("x" * 900_000)
"""
LOG_CHARS = 70_000_000  # more than a frame of the control socket holds
FILL = f"""
import os, sys, anyio
from llmos.kernel.config import load_config
from llmos.memory.db import Database
from llmos.memory.journal import append_output

async def main():
    db = Database.open(load_config(os.environ).database)
    for _ in range({LOG_CHARS} // 1_000_000):
        await db.write(lambda connection: append_output(connection, 1, "x" * 999_999 + chr(10)))
    await db.aclose()

anyio.run(main)
"""

# Runs a program and writes down how much memory it took at most, in kilobytes. A process on Linux
# inherits the high-water mark of the one that starts it, so that one must be something small.
MEASURE = """
import os, sys
pid = os.posix_spawn(sys.executable, [sys.executable, *sys.argv[2:]], os.environ)
_, status, usage = os.wait4(pid, 0)
with open(sys.argv[1], "w") as file:
    file.write(str(usage.ru_maxrss))
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.fixture
def printer(llmos: Llmos) -> "subprocess.Popen[str]":
    """A command whose app prints much more than anybody reads; its first words are out."""
    llmos.run("app", "new", "printer")
    module = llmos.work / "printer" / "printer.py"
    module.write_text(module.read_text().partition("    text =")[0] + PRINTER)
    process = llmos.start("run", *ECHO, "./printer")
    assert process.stdout is not None
    assert os.read(process.stdout.fileno(), 1) == b"x"
    return process


def test_others_run_on_while_a_reader_pauses(
    printer: "subprocess.Popen[str]", llmos: Llmos
) -> None:
    with printer:
        ran = llmos.run("run", *ECHO, "ask", "hi")
        num_begun = (llmos.work / "printed").stat().st_size

        assert (ran.returncode, ran.stdout) == (0, "hi\n"), ran.stderr
        assert num_begun < NUM_PRINTS, "the app did not wait for its reader"
        out, err = printer.communicate(timeout=DEADLINE_SECONDS)
    assert (printer.returncode, len(out), err) == (0, NUM_PRINTS * 900_001 - 1, "")


def test_ctrl_c_works_while_a_reader_pauses(printer: "subprocess.Popen[str]", llmos: Llmos) -> None:
    with printer:
        printer.send_signal(signal.SIGINT)

        assert printer.wait(DEADLINE_SECONDS) == 130
        assert printer.stderr is not None
        assert printer.stderr.read() == "llmos: interrupted\n"
    (info,) = json.loads(llmos.run("ps", "--json").stdout)
    assert info["exit_status"] == "killed"


def test_a_reader_who_leaves_ends_the_command_quietly(
    printer: "subprocess.Popen[str]", llmos: Llmos
) -> None:
    with printer:
        assert printer.stdout is not None
        assert printer.stderr is not None
        printer.stdout.close()

        assert printer.wait(DEADLINE_SECONDS) == 1
        assert printer.stderr.read() == ""
    (info,) = json.loads(llmos.run("ps", "--json").stdout)
    assert info["exit_status"] == "killed"


@pytest.fixture(scope="module")
def long_log(tmp_path_factory: pytest.TempPathFactory) -> Llmos:
    """llmos with a process 1 whose log is longer than one answer may be."""
    llmos = Llmos(tmp_path_factory.mktemp("long_log"))
    llmos.run("run", *ECHO, "ask", "hello")
    subprocess.run([sys.executable, "-c", FILL], env=llmos.environ, check=True)
    return llmos


@pytest.mark.slow
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_long_log_is_shown_whole_in_little_memory(long_log: Llmos, form: tuple[str, ...]) -> None:
    peak = long_log.work / "peak"
    command = ["-c", MEASURE, str(peak), "-m", "llmos.bin.cli", "log", *form, "1"]
    num_bytes, rows = 0, ""
    with subprocess.Popen(
        [sys.executable, *command], env=long_log.environ, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        while piece := process.stdout.read(1 << 20):
            num_bytes, rows = num_bytes + len(piece), piece[-2000:]

    assert process.returncode == 0
    assert num_bytes > LOG_CHARS
    assert "generate" in rows
    assert int(peak.read_text()) < 250_000, "kilobytes"


def test_the_measure_sees_the_memory_of_a_program_and_of_nobody_else(tmp_path: Path) -> None:
    """The control, beside a process that is as large as the tests' own may be."""
    ballast = b"x" * 300_000_000
    peaks = []
    for code in ("pass", "x = b'x' * 300_000_000"):
        command = [sys.executable, "-c", MEASURE, str(tmp_path / "peak"), "-c", code]
        subprocess.run(command, check=True)
        peaks.append(int((tmp_path / "peak").read_text()))

    assert ballast
    assert peaks[0] < 100_000
    assert peaks[1] > 290_000


@pytest.mark.slow
def test_a_log_that_is_not_read_to_its_end_is_no_error(long_log: Llmos) -> None:
    for leave, code in (("SIGINT", 130), ("close", 1)):
        with long_log.start("log", "1") as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.read(5) == "hello"
            if leave == "close":
                process.stdout.close()
            else:
                process.send_signal(signal.SIGINT)

            assert process.wait(DEADLINE_SECONDS) == code
            assert process.stderr.read() in ("", "llmos: interrupted\n")
