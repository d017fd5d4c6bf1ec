"""R1: kernels, apps, zygotes and executors are killed at random moments of a mixed workload.

Players (see player/) remember, print, ask, sleep, generate, spawn and wait, and call a `once` tool
whose effect is a line outside the store. After each kill a kernel comes up on the same state
directory and the processes go on; at last all of them end, and the judge of evidence.py holds what
was seen against the store. The control is a kernel that finds its journal empty: effects repeat and
answers are lost.
"""

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.suite import add_up, ignore, read_counts, run_program

KILLS_A_ROUND = 250
EXECUTOR_KILLS_A_ROUND = 3
NUM_LANES = 2
ROOT = Path(__file__).resolve().parents[2]


def run(
    number: int, seed: int = 0, *, is_weak: bool = False, report: Callable[[str], None] = ignore
) -> dict[str, float]:
    """Kill `number` times or a few more, in rounds of a state directory each, two at a time.

    Whole rounds have a real model too, whose executor is killed. Counts: `num_kills` (and of each
    kind), and 0 each when all is well: `num_lost`, `num_repeated_effects`, `num_repeated_output`,
    `num_untruthful` (an IN_DOUBT that was not), `num_unexpected` (errors), `num_corrupt`,
    `num_unended`.
    """
    sizes = [min(KILLS_A_ROUND, number - start) for start in range(0, number, KILLS_A_ROUND)]
    total: Counter[str] = Counter()

    def play(index: int) -> None:
        counts = play_round(sizes[index], seed * 1000 + index, is_weak=is_weak, report=report)
        add_up(total, counts)
        report(f"kills: {total['num_kills']} of {number}, {total['num_lost']} calls lost")

    with ThreadPoolExecutor(NUM_LANES) as lanes:
        list(lanes.map(play, range(len(sizes))))
    return {"num_runs": total["num_kills"], **total}


def play_round(
    num_kills: int, seed: int, *, is_weak: bool, report: Callable[[str], None]
) -> dict[str, float]:
    """One round in a program of its own."""
    has_model = num_kills >= KILLS_A_ROUND and not is_weak
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.faults.kill_round", folder]
        command += ["--kills", str(num_kills), "--seed", str(seed)]
        command += ["--executor-kills", str(EXECUTOR_KILLS_A_ROUND if has_model else 0)]
        command += ["--weak"] if is_weak else []
        played = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    for line in [] if is_weak else played.stderr.splitlines():
        report(f"kills, seed {seed}: {line}")
    played.check_returncode()
    return read_counts(played.stdout)


if __name__ == "__main__":
    run_program("kills", run)
