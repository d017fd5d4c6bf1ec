"""Suite R2: power cuts at any moment lose nothing that was acknowledged and damage nothing.

The store takes steps while all that it does to its disk is recorded. From each recording many
states are computed that a power cut may leave (see disk); in each of them the store is opened as
after a reboot. It has to hold what so many steps make to the byte, checksums too, all acknowledged
ones among them, pass SQLite's checks, and take a change.

`python -m tests.faults.power_cuts --number 100000` is the release form. The control does the same
with a writer that waits less for the disk: `synchronous = NORMAL` has to lose acknowledged steps,
`OFF` has to damage the store.
"""

import hashlib
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio

from llmos.memory.db import Connection, Database
from llmos.syscalls.errors import E_STORAGE

from . import recording, scratch, shim
from .disk import Disk, Folder, Operation, read_log
from .scratch import Report
from .workload import require_sound, take_reference, take_snapshot

STATES_PER_RECORDING = 500
MAX_RECORDINGS_AT_ONCE = 16
SAFE, WEAK = ("FULL",), ("NORMAL", "OFF")  # the writer's `synchronous`
NAMED_CHARS = 100


@dataclass
class Figures:
    """What the states were like."""

    num_runs: int = 0
    num_lost: int = 0  # an acknowledged step is missing
    num_corrupt: int = 0  # cannot be opened, is damaged, or holds what no number of steps makes
    errors: Counter[str] = field(default_factory=Counter)

    def note_corrupt(self, error: E_STORAGE) -> None:
        """A state is corrupt, and this is how it shows."""
        self.num_corrupt += 1
        self.errors[error.message[:NAMED_CHARS]] += 1


def run(
    number: int, seed: int = 0, *, is_weak: bool = False, report: Report = scratch.tell
) -> dict[str, float]:
    """Play `number` states, no two of them the same; how many were bad."""
    figures = Figures()
    ways = WEAK if is_weak else SAFE
    started = time.monotonic()
    with scratch.scratch_folder() as folder:
        library = shim.build(folder)
        for num_ways, way in enumerate(ways, start=1):
            wanted = number * num_ways // len(ways)
            for home in record_more(library, folder, seed, way):
                num_states = min(STATES_PER_RECORDING, wanted - figures.num_runs)
                anyio.run(check_recording, home, num_states, figures)
                rate = figures.num_runs / (time.monotonic() - started)
                report(f"{way}: {figures.num_runs} of {number}, {rate:.0f} a second: {figures}")
                if figures.num_runs >= wanted:
                    break
    return {
        "num_runs": figures.num_runs,
        "num_lost": figures.num_lost,
        "num_corrupt": figures.num_corrupt,
    }


def record_more(library: Path, folder: Path, seed: int, synchronous: str) -> Iterator[Path]:
    """The folders of recorded stores, made as they are needed; each goes with the next one."""
    place = folder / synchronous
    place.mkdir()
    at_once = 1
    while True:
        arguments = [str(place), str(seed), str(at_once), synchronous]
        command = [sys.executable, "-m", recording.__name__, *arguments]
        subprocess.run(command, env=shim.environment(library), check=True)
        for each in range(seed, seed + at_once):
            yield place / str(each)
            shutil.rmtree(place / str(each))
            (place / f"{each}.log").unlink()
        seed += at_once
        at_once = min(2 * at_once, MAX_RECORDINGS_AT_ONCE)


async def check_recording(home: Path, number: int, figures: Figures) -> None:
    """Check up to `number` states of one recording."""
    seed = int(home.name)
    log = read_log(home.with_suffix(".log"))
    require_whole(log, home)
    state = home / "state"
    scratch.put_folder(state, {})
    expected = await take_reference(state / "memory.db", seed, recording.NUM_STEPS)
    for last_mark, files in cut_power(log, number, random.Random(seed)):
        scratch.put_folder(state, files)
        figures.num_runs += 1
        try:
            num_steps = await check(state / "memory.db", expected)
        except E_STORAGE as error:
            figures.note_corrupt(error)
        else:
            figures.num_lost += num_steps < last_mark


def require_whole(log: Sequence[Operation], home: Path) -> None:
    """A recording that did not see everything proves nothing."""
    disk = Disk()
    for operation in log:
        disk.apply(operation)
    left = {path.name: path.read_bytes() for path in home.iterdir()}
    if disk.seen() != left:
        raise AssertionError(f"the recording of {home.name} is not what was done")


def cut_power(
    log: Sequence[Operation], number: int, rng: random.Random
) -> Iterator[tuple[int, Folder]]:
    """States after power cuts all over a recording, with the last step acknowledged before each.

    At most `number`: one that is as an earlier one is left out.
    """
    known: set[tuple[int, bytes]] = set()
    num_cuts = Counter(rng.choices(range(len(log)), k=number))
    disk = Disk()
    for moment, operation in enumerate(log):
        disk.apply(operation)
        for _ in range(num_cuts[moment]):
            files = disk.cut(rng)
            name = (disk.last_mark, digest_folder(files))
            if name not in known:
                known.add(name)
                yield disk.last_mark, files


def digest_folder(files: Folder) -> bytes:
    """Equal for equal files alone."""
    digest = hashlib.blake2b(digest_size=16)
    for name, content in sorted(files.items()):
        digest.update(f"{name} {len(content)} ".encode())
        digest.update(content)
    return digest.digest()


def look(connection: Connection) -> tuple[int, bytes]:
    """What a store holds; E_STORAGE if it is damaged."""
    require_sound(connection)
    return take_snapshot(connection)


async def check(path: Path, expected: Sequence[bytes]) -> int:
    """How many steps a store holds; E_STORAGE if it is not what so many steps make."""
    db = Database.open(path)
    try:
        num_steps, digest = await db.write(look)
    finally:
        await db.aclose()
    if expected[num_steps : num_steps + 1] != [digest]:
        raise E_STORAGE("the store holds what no number of steps makes")
    return num_steps


if __name__ == "__main__":
    scratch.main(run)
