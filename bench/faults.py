"""Whether anything is lost, repeated or corrupt when things go wrong: the suites of tests/faults.

`bin/bench faults [--full] [--json]`. Each suite plays its runs, and its control, a set-up that is
weak on purpose, has to be found out. The short form takes a few minutes; --full is the release
form and takes hours. The exit code is 1 if a suite found something or a control nothing. With
--json the last line is one flat JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.faults.suite import add_up, find_wrong, read_counts

ROOT = Path(__file__).resolve().parents[1]
SEEDS_APART = 1_000_000


@dataclass(frozen=True)
class Suite:
    """A module of tests/faults. How many runs it plays, and its control.

    `is_split`: its release form runs as one program for each processor.
    """

    name: str
    what: str
    num_short: int
    num_full: int
    num_control: int
    is_split: bool = True

    @property
    def exists(self) -> bool:
        """Whether the module is there."""
        return find_spec(f"tests.faults.{self.name}") is not None

    def run(self, number: int, num_programs: int, *, is_weak: bool = False) -> dict[str, float]:
        """Play so many runs in so many programs; their counts in all."""
        shares = [number // num_programs] * num_programs
        shares[0] += number % num_programs
        total: Counter[str] = Counter()
        with ThreadPoolExecutor(num_programs) as pool:
            for counts in pool.map(
                lambda index: self._run_program(shares[index], index * SEEDS_APART, is_weak),
                range(num_programs),
            ):
                add_up(total, counts)
        return dict(total)

    def _run_program(self, number: int, seed: int, is_weak: bool) -> dict[str, float]:
        command = [sys.executable, "-m", f"tests.faults.{self.name}"]
        command += ["--number", str(number), "--seed", str(seed), *(["--weak"] if is_weak else [])]
        path = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
        environment = os.environ | {"PYTHONPATH": path}
        played = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        return read_counts(played.stdout)


SUITES = (
    Suite("kills", "R1 kills", 300, 10_000, 40, is_split=False),
    Suite("power_cuts", "R2 power-cut states", 5_000, 100_000, 500),
    Suite("io_errors", "R3 I/O errors", 300, 5_000, 50),
    Suite("simulation", "R5 simulated seeds", 60, 10_000, 4),
    Suite("resumed_tokens", "R6 resumed generations", 20, 1_000, 5),
    Suite("mutations", "R7 mutated and clean replays", 60, 1_300, 20),
    Suite("damage", "R9 damaged stores", 200, 3_000, 50),
)


def play(suite: Suite, *, is_full: bool) -> dict[str, float]:
    """One suite and its control; names begin with the suite's."""
    num_programs = (os.cpu_count() or 1) if is_full and suite.is_split else 1
    begun = time.monotonic()
    counts = suite.run(suite.num_full if is_full else suite.num_short, num_programs)
    seconds = time.monotonic() - begun
    control = suite.run(suite.num_control, 1, is_weak=True)
    figures = {
        "runs": counts["num_runs"],
        "wrong": sum(find_wrong(counts).values()),
        "control_wrong": sum(find_wrong(control).values()),
        "runs_per_second": counts["num_runs"] / seconds,
        **counts,
    }
    return {f"{suite.name}_{name}": value for name, value in figures.items()}


def sum_up(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures over all suites that a reader looks for first."""

    def total(ending: str) -> float:
        return sum(value for name, value in figures.items() if name.endswith(ending))

    return {
        "num_kills": figures.get("kills_num_kills", 0),
        "num_lost": total("_num_lost"),
        "num_repeated_effects": total("_num_repeated_effects"),
        "num_power_cut_states": figures.get("power_cuts_runs", 0),
        "num_power_cut_losses": figures.get("power_cuts_wrong", 0),
        "num_wrong": sum(figures.get(f"{suite.name}_wrong", 0) for suite in SUITES),
        "num_control_losses": total("_control_wrong"),
    }


def show(figures: Mapping[str, float], suites: list[Suite]) -> None:
    """A row for each suite."""
    table = Table("suite", "runs", "wrong", "wrong in the control", "runs/s", title="faults")
    for suite in suites:
        keys = ("runs", "wrong", "control_wrong", "runs_per_second")
        runs, wrong, control, speed = (figures[f"{suite.name}_{key}"] for key in keys)
        table.add_row(
            suite.what, f"{runs:,.0f}", f"{wrong:,.0f}", f"{control:,.0f}", f"{speed:.3g}"
        )
    Console().print(table)


def main(arguments: list[str]) -> int:
    """Play the suites and print; 1 if one is not as it should be."""
    parser = argparse.ArgumentParser(prog="bin/bench faults")
    parser.add_argument("--full", action="store_true", help="the release form: hours")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("names", nargs="*", metavar="SUITE", help="only these")
    options = parser.parse_args(arguments)
    known = {suite.name: suite for suite in SUITES if suite.exists}
    if unknown := set(options.names) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    suites = [known[name] for name in options.names or known]
    figures: dict[str, float] = {}
    for suite in suites:
        figures |= play(suite, is_full=options.full)
    show(figures, suites)
    if options.json:
        print(json.dumps(sum_up(figures) | figures))
    is_well = all(
        not figures[f"{suite.name}_wrong"] and figures[f"{suite.name}_control_wrong"]
        for suite in suites
    )
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
