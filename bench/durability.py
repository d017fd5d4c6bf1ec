"""What it costs that processes survive: journaled calls beside DBOS, replay, sleepers, pages.

`bin/bench durability [--quick] [--json]`. 64 processes make journaled null calls (`now`, and
`print`, whose reply waits for the disk) beside as many workflows of DBOS Transact making steps, in
turns; its SQLite is set as ours is, to survive a power cut. Rates count what is on disk. With
--json the last line is one flat JSON object.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.output import make_parser
from bench.peers.catalogue import DBOS

ROOT = Path(__file__).resolve().parents[1]
CALLS = "from bench.durable_kernel import main; main()"
SLEEPERS = "from bench.durable_sleepers import main; main()"
NUM_PROCESSES = 64
NUM_ROUNDS = 3
SECONDS = 5.0
NUM_REPLAYS = 5
NUM_SLEEPERS = 100_000
NUM_IN_STORM = 1_000


def run_kernel(program: str, folder: Path, *arguments: str) -> list[float]:
    """What a kernel on a state directory of its own tells of itself."""
    home = tempfile.mkdtemp(dir=folder)
    environment = os.environ | {
        "LLMOS_HOME": home,
        "LLMOS_MODEL": "echo",
        "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT))),
    }
    command = [sys.executable, "-c", program, arguments[0], str(folder), *arguments[1:]]
    return read_list(command, environment)


def run_dbos(folder: Path, num_workflows: int, seconds: float) -> list[float]:
    """Steps a second of DBOS, and the median and 99th percentile in milliseconds."""
    database = Path(tempfile.mkdtemp(dir=folder)) / "dbos.sqlite"
    command = [str(DBOS.python), "-m", DBOS.module, str(database)]
    return read_list([*command, str(num_workflows), str(seconds)], os.environ | {})


def read_list(command: list[str], environment: dict[str, str]) -> list[float]:
    """The JSON list that a program prints as its last line."""
    told = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    numbers: list[float] = json.loads(told.splitlines()[-1])
    return numbers


def middle(rounds: list[list[float]]) -> list[float]:
    """The median of each number over rounds."""
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def measure_calls(folder: Path, *, quick: bool) -> dict[str, float]:
    """Journaled calls and DBOS's steps, in turns."""
    seconds, num_rounds = (2.0, 1) if quick else (SECONDS, NUM_ROUNDS)
    rounds: dict[str, list[list[float]]] = {"now": [], "print": [], "dbos": []}
    for _ in range(num_rounds):
        for call in ("now", "print"):
            words = "calls", call, str(NUM_PROCESSES), str(seconds)
            rounds[call].append(run_kernel(CALLS, folder, *words))
        if DBOS.is_installed:
            rounds["dbos"].append(run_dbos(folder, NUM_PROCESSES, seconds))
    now, printed = middle(rounds["now"]), middle(rounds["print"])
    figures = {
        "durable_syscalls_per_second": now[0],
        "journaled_call_ms": now[1],
        "journaled_call_ms_p99": now[2],
        "awaited_syscalls_per_second": printed[0],
        "awaited_call_ms": printed[1],
        "awaited_call_ms_p99": printed[2],
    }
    if rounds["dbos"]:
        dbos = middle(rounds["dbos"])
        figures |= {"dbos_steps_per_second": dbos[0], "dbos_step_ms": dbos[1]}
        figures |= {"vs_dbos": now[0] / dbos[0], "awaited_vs_dbos": printed[0] / dbos[0]}
    else:
        print(f"no DBOS to compare with; fix: {DBOS.fix}", file=sys.stderr)
    return figures


def measure_replay(folder: Path, *, quick: bool) -> dict[str, float]:
    """A journal of 1,000 calls, replayed by another kernel."""
    rounds = [run_kernel(CALLS, folder, "replay") for _ in range(1 if quick else NUM_REPLAYS)]
    whole, in_main = middle(rounds)
    return {"replay_1000_seconds": whole, "replay_1000_in_main_seconds": in_main}


def measure_sleepers(folder: Path, *, quick: bool) -> dict[str, float]:
    """A crowd of sleeping processes, a storm of timers, and single wakes."""
    num_sleepers, num_in_storm = (5_000, 100) if quick else (NUM_SLEEPERS, NUM_IN_STORM)
    crowd = run_kernel(SLEEPERS, folder, "crowd", str(num_sleepers), str(num_in_storm))
    empty_seconds, full_seconds, growth_bytes, storm_seconds, num_failed, num_swapped = crowd
    wakes = run_kernel(SLEEPERS, folder, "wakes")
    return {
        "sleeping_processes": num_sleepers,
        "sleepers_rss_mb": growth_bytes / (1 << 20),
        "sleepers_boot_seconds": full_seconds,
        "boot_without_sleepers_seconds": empty_seconds,
        "storm_processes": num_in_storm,
        "storm_seconds": storm_seconds,
        "storm_failed": num_failed,
        "storm_out_of_order": num_swapped,
        "wake_ms_p50": wakes[0],
        "wake_ms_max": wakes[1],
    }


def measure_pages(*, quick: bool) -> dict[str, float]:
    """A context of 2,000 tokens after a restart: from disk beside computing it (bench/swap.py)."""
    command = [sys.executable, "-m", "bench", "swap", "--json", *(["--quick"] if quick else [])]
    told = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    figures: dict[str, float] = json.loads(told.splitlines()[-1])
    return {"disk_restore_vs_prefill": figures["disk_restore_vs_prefill"]}


ROWS = (
    ("journaled calls a second, 64 processes", "durable_syscalls_per_second", "≥ 5,000"),
    ("journaled call, median, ms", "journaled_call_ms", "≤ 2"),
    ("the same, 99th percentile, ms", "journaled_call_ms_p99", ""),
    ("calls a second whose reply waits for the disk", "awaited_syscalls_per_second", ""),
    ("such a call, median, ms", "awaited_call_ms", ""),
    ("steps a second of DBOS, 64 workflows", "dbos_steps_per_second", ""),
    ("journaled calls by DBOS's steps", "vs_dbos", "≥ 10"),
    ("calls that wait for the disk by DBOS's steps", "awaited_vs_dbos", ""),
    ("replay of 1,000 calls, start and all, s", "replay_1000_seconds", "≤ 0.5"),
    ("the same, in main alone, s", "replay_1000_in_main_seconds", ""),
    ("sleeping processes", "sleeping_processes", "100,000"),
    ("memory that they take the kernel, MB", "sleepers_rss_mb", "≤ 200"),
    ("boot with them, to the end of a first process, s", "sleepers_boot_seconds", "≤ 10"),
    ("the same without them, s", "boot_without_sleepers_seconds", ""),
    ("timers that are due within a second", "storm_processes", "1,000"),
    ("seconds until all of these have ended", "storm_seconds", ""),
    ("of these failed", "storm_failed", "0"),
    ("of these woken out of order", "storm_out_of_order", "0"),
    ("a sleeper's first call after its time, median, ms", "wake_ms_p50", "≤ 100"),
    ("pages from disk, times faster than prefill", "disk_restore_vs_prefill", "≥ 5"),
)


def show(figures: dict[str, float]) -> None:
    """The table: each figure and what it should be."""
    table = Table("what", "measured", "wanted", title="durability")
    for label, name, wanted in ROWS:
        if name in figures:
            table.add_row(label, f"{figures[name]:,.4g}", wanted)
    Console().print(table)


def main(arguments: list[str]) -> int:
    """Measure and print; exit code 0 whatever the figures are."""
    options = make_parser("durability", "fewer and shorter rounds, a small model").parse_args(
        arguments
    )
    with tempfile.TemporaryDirectory() as name:
        figures = measure_calls(Path(name), quick=options.quick)
        figures |= measure_replay(Path(name), quick=options.quick)
        figures |= measure_sleepers(Path(name), quick=options.quick)
    figures |= measure_pages(quick=options.quick)
    show(figures)
    if options.json:
        print(json.dumps({name: round(value, 4) for name, value in figures.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
