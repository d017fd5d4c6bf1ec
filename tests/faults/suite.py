"""What the suites share: a suite as a program, and counts that are added up."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping

Run = Callable[..., dict[str, float]]
# What a suite counts beside what went wrong.
NEUTRAL = {
    "num_runs",
    "num_calls",
    "num_processes",
    "num_in_doubt",
    "num_crashes",
    "num_kills",
    "num_kernel_kills",
    "num_app_kills",
    "num_zygote_kills",
    "num_executor_kills",
    "num_clean_replays",
    "num_mutations",
    "num_right",
    "num_named",
    "num_older",
    "num_unfound",
}


def ignore(line: str) -> None:
    """A `report` for who wants none."""


def tell(line: str) -> None:
    """A `report` on stderr."""
    print(line, file=sys.stderr, flush=True)


def find_wrong(counts: Mapping[str, float]) -> dict[str, float]:
    """The counts of what went wrong, where there are any."""
    return {name: value for name, value in counts.items() if value and name not in NEUTRAL}


def add_up(total: Counter[str], counts: Mapping[str, float]) -> None:
    """Add counts to others of the same names; a count of 0 keeps its name."""
    for name, value in counts.items():
        total[name] += value  # type: ignore[assignment]


def read_counts(output: str) -> dict[str, float]:
    """The counts that a suite's program printed as its last line."""
    counts: dict[str, float] = json.loads(output.splitlines()[-1])
    return counts


def run_program(name: str, run: Run) -> None:
    """`python -m tests.faults.NAME --number N [--seed S] [--weak]`: counts as one JSON line."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.faults.{name}")
    parser.add_argument("--number", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weak", action="store_true", help="the control: it must find losses")
    options = parser.parse_args()
    print(json.dumps(run(options.number, options.seed, is_weak=options.weak, report=tell)))
