"""Suite R3: a disk that fails anywhere costs nothing that was acknowledged, and no effect twice.

Each run is a kernel with an app whose disk fails at one write, sync, truncation, new or removed
file: no space, an I/O error, a write that is cut short, a sync that fails and loses its pages; once
or until it is mended (see failing_disk). What was acknowledged has to be there afterwards, nothing
may be there twice, errors have to be clean, and a healthy disk has to make all go on.

`python -m tests.faults.io_errors --number 5000` is the release form. The control does the same with
a writer that takes a transaction for durable whatever the disk says: it has to lose.
"""

import subprocess
import sys
import time

import msgspec

from . import io_runs, scratch, shim
from .failing_disk import Figures
from .scratch import Report


def run(
    number: int, seed: int = 0, *, is_weak: bool = False, report: Report = scratch.tell
) -> dict[str, float]:
    """Play `number` runs in which something failed; what came of them."""
    figures = Figures()
    started = time.monotonic()
    with scratch.scratch_folder() as folder:
        library = shim.build(folder)
        strength = io_runs.WEAK if is_weak else "safe"
        command = [sys.executable, "-m", io_runs.__name__, str(folder), str(number), str(seed)]
        with subprocess.Popen(
            [*command, strength], env=shim.environment(library), stdout=subprocess.PIPE
        ) as player:
            assert player.stdout is not None
            for line in player.stdout:
                figures = msgspec.json.decode(line, type=Figures)
                rate = figures.num_runs / (time.monotonic() - started)
                report(f"{figures.num_runs} of {number} runs, {rate:.1f} a second: {figures}")
    if player.returncode != 0:
        raise subprocess.CalledProcessError(player.returncode, command)
    return figures.list_wrong()


if __name__ == "__main__":
    scratch.main(run)
