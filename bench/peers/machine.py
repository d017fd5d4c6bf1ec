"""How busy the machine was with other work while an engine was measured, on Linux.

A figure taken beside other work is worth little: engines that wait for each other's threads at
every product lose more by it than those that do not.
"""

import os
import time
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")
IDLE, IOWAIT = 3, 4  # columns of /proc/stat


class Meter:
    """Counts from its making on."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._begun = time.perf_counter()
        self._others = self._count_others()

    def measure(self) -> float:
        """Processors that were busy with something else, on average; 0.0 off Linux."""
        seconds = time.perf_counter() - self._begun
        return max(0.0, (self._count_others() - self._others) / seconds)

    def _count_others(self) -> float:
        """Processor seconds that all but the process have used since the machine's start."""
        try:
            columns = Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]
            own = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        ticks = [int(column) for column in columns]
        busy = sum(ticks) - ticks[IDLE] - ticks[IOWAIT]
        return (busy - int(own[11]) - int(own[12])) / TICK
