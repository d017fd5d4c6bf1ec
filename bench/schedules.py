"""Random schedules on every shape of the tests, every answer compared: 2,000 of them with --full.

`bin/bench schedules [--full] [--json] [SHAPE ...]`. What tests/kernel/executor/test_schedules.py
does with a few schedules of each shape: requests, branches, cancels, pauses, preemptions, pages
that move between the tiers, restarts. In float32 greedy answers have to be those of transformers'
generate, sampled ones those of an engine that has nothing else to do; in bfloat16 on the compiled
kernels, where there are any, the latter holds for all. Ends at the first wrong answer, with the
shortest schedule found that leads to one.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.table import Table

from llmos.kernel.executor.native.library import has_native_kernels
from tests.kernel.executor.answers import Answers
from tests.kernel.executor.conftest import CONFIGS, save_checkpoint
from tests.kernel.executor.schedules import NUM_NEW, PROMPTS, run_schedules

NUM_FULL, NUM_QUICK = 2000, 140
ON_KERNELS = "-bf16"


def list_shapes() -> list[str]:
    """The names of all shapes that can be played here."""
    return [*CONFIGS, *(name + ON_KERNELS for name in CONFIGS if has_native_kernels())]


def play(name: str, num_schedules: int) -> Counter[str]:
    """Schedules on a model of two layers, in sizes that the kernels take where they are to run."""
    is_native = name.endswith(ON_KERNELS)
    sizes = {"num_hidden_layers": 2} | ({"head_dim": 32} if is_native else {})
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(name.removesuffix(ON_KERNELS), Path(folder), **sizes)
        dtype = "bfloat16" if is_native else "float32"
        return run_schedules(Answers(Path(folder), PROMPTS, NUM_NEW, dtype=dtype), num_schedules)


def main() -> None:
    """Play and print."""
    parser = argparse.ArgumentParser(prog="bench.schedules")
    parser.add_argument(
        "--full", action="store_true", help=f"{NUM_FULL} schedules, not {NUM_QUICK}"
    )
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    parser.add_argument("shapes", nargs="*", metavar="SHAPE", help="only these, not all")
    options = parser.parse_args()
    known = list_shapes()
    shapes = options.shapes or known
    if unknown := sorted(set(shapes) - set(known)):
        parser.error(f"there is no shape {unknown[0]}; there are: {', '.join(known)}")
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    num_schedules = -(-(NUM_FULL if options.full else NUM_QUICK) // len(known))
    tallies: dict[str, Counter[str]] = {}
    for name in shapes:
        started = time.monotonic()
        tallies[name] = play(name, num_schedules)
        seconds = time.monotonic() - started
        print(
            f"{name}: {tallies[name]['schedules']} schedules, all equal ({seconds:.0f} s)",
            flush=True,
        )
    total = sum(tallies.values(), Counter[str]())
    table = Table("what", "on all", title="random schedules, every answer the right one")
    for what in sorted(total, key=lambda what: what != "schedules"):
        table.add_row(what, f"{total[what]:,}")
    Console().print(table)
    if options.json:
        print(json.dumps(total))


if __name__ == "__main__":
    main()
