"""What nobody foresaw."""

import json
import subprocess
import sys
from pathlib import Path

from .conftest import SOURCE, Llmos


def crash(failure: str) -> "subprocess.CompletedProcess[str]":
    program = f"from llmos.bin.crash import *; install_crash_report(); raise {failure}"
    return subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_fault_is_one_line_and_a_file_with_the_traceback() -> None:
    ran = crash("ZeroDivisionError('why')")

    what, fix = ran.stderr.splitlines()
    log = Path(fix.removeprefix("fix: report it with "))
    assert (ran.returncode, what) == (1, "llmos: a fault of llmos: ZeroDivisionError")
    assert log.read_text().endswith("ZeroDivisionError: why\n")
    log.unlink()


def test_ctrl_c_while_modules_load_is_one_line() -> None:
    ran = crash("KeyboardInterrupt")

    assert (ran.returncode, ran.stderr) == (130, "llmos: interrupted\n")


def test_a_stream_that_is_closed_leads_nowhere_and_not_into_the_store(llmos: Llmos) -> None:
    command = f"{sys.executable} -m llmos.bin.cli run --model echo ask hello"
    for closed in (">&-", "2>&-", "<&-", ">&- 2>&- <&-"):
        ran = subprocess.run(
            ["sh", "-c", f"{command} {closed}"],
            env=llmos.environ,
            cwd=llmos.work,
            capture_output=True,
            check=False,
        )

        assert ran.returncode == 0, ran.stderr
    assert len(json.loads(llmos.run("ps", "--json").stdout)) == 4
