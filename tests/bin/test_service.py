"""`llmos start`: a daemon that does not come up says why."""

import subprocess
import sys

from .conftest import Llmos

NO_FILE_MAY_GROW = 'ulimit -f 0; exec "$0" -m llmos.bin.cli "$@"'


def test_a_daemon_that_cannot_even_write_its_log_is_told_apart(llmos: Llmos) -> None:
    ran = subprocess.run(
        ["sh", "-c", NO_FILE_MAY_GROW, sys.executable, "start"],
        env=llmos.environ,
        capture_output=True,
        text=True,
        timeout=60,
    )

    what, fix = ran.stderr.splitlines()
    assert ran.returncode == 3
    assert what == f"llmos: the daemon did not come up: the disk of {llmos.home}/logs is full"
    assert fix == "fix: make room on the disk"


def test_what_a_daemon_says_comes_out_of_start(llmos: Llmos) -> None:
    llmos.home.mkdir(mode=0o700)
    (llmos.home / "llmos.db").write_text("no database " * 1000)

    ran = llmos.run("start")

    assert ran.returncode == 3
    assert ran.stderr.startswith("llmos: the daemon did not come up: cannot open")
