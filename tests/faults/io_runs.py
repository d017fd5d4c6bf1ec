"""The runs of io_errors one after another: a program, under the shim.

`python -m tests.faults.io_runs FOLDER NUMBER SEED STRENGTH` prints its figures so far as lines of
JSON. A run that does not end ends the program, with the places where its threads were.
"""

import faulthandler
import logging
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import msgspec

from llmos.kernel import journal
from llmos.memory import wal, writer

from .failing_disk import Fault, Figures, Run
from .shim import CLASS_OF, FAULTS, Shim

SHORT_SECONDS = 0.002  # instead of one that nobody here can wait for
CHECKPOINT_BYTES = 16 * 4096
MAX_RUN_SECONDS = 60
RUNS_PER_LINE = 100
NOTHING_FAILS = Fault("no space", sys.maxsize, False, "close")
WEAK = "weak"


async def count_places(shim: Shim, folder: Path) -> tuple[int, ...]:
    """How many places there are where a run can fail, by class."""
    run = Run(shim, folder, NOTHING_FAILS, random.Random(0), Figures(), is_weak=False)
    await run.play()
    return run.num_places


def list_faults(num_places: tuple[int, ...], rng: random.Random) -> Iterator[Fault]:
    """Every fault at every place, once and for good, in any order; then all again."""
    faults = [
        Fault(name, position, is_sticky, "close")
        for name in FAULTS
        for position in range(1, num_places[CLASS_OF[name]] + 1)
        for is_sticky in (False, True)
    ]
    while True:
        rng.shuffle(faults)
        for fault in faults:
            yield replace(fault, ending=rng.choice(fault.endings))


async def main(folder: Path, number: int, seed: int, strength: str) -> None:
    """Play runs until in so many something has failed."""
    wal.CHECKPOINT_BYTES = CHECKPOINT_BYTES
    writer.IDLE_SECONDS = journal.COME_AGAIN_SECONDS = SHORT_SECONDS
    logging.disable()
    shim, rng, figures = Shim(), random.Random(seed), Figures()
    for fault in list_faults(await count_places(shim, folder), rng):
        faulthandler.dump_traceback_later(MAX_RUN_SECONDS, exit=True)
        has_failed = await Run(shim, folder, fault, rng, figures, strength == WEAK).play()
        if has_failed and (figures.num_runs % RUNS_PER_LINE == 0 or figures.num_runs == number):
            print(msgspec.json.encode(figures).decode(), flush=True)
        if figures.num_runs == number:
            return


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
