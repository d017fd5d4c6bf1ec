"""Work of other processes is seen."""

import os
import subprocess
import sys
import time

import pytest

from bench.peers.machine import Meter

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
SPIN = "import sys; print(flush=True)\nwhile True: pass"


def spin(pid: int) -> float:
    """What a meter of `pid` says after a quarter of a second of work here."""
    meter = Meter(pid)
    end = time.process_time() + 0.25
    while time.process_time() < end:
        pass
    return meter.measure()


def test_the_work_of_another_process_counts() -> None:
    other = subprocess.Popen([sys.executable, "-c", SPIN], stdout=subprocess.PIPE)
    assert other.stdout
    other.stdout.readline()

    beside, without = spin(os.getpid()), spin(other.pid)

    other.kill()
    other.communicate()
    assert beside > 0.1
    assert without > 0.1
