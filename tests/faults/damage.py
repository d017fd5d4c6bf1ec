"""Suite R9: a store whose files were damaged serves no wrong data.

    python -m tests.faults.damage --number 3000 [--seed S] [--weak]

Each run damages a copy of one example store, opens it and reads everything by our own readers:
each value is what was written, or a typed error names what is lost. Damage is a flipped bit, a
sector or page of zeros or noise, a file cut off, two pages swapped, one page over another, an old
file or an old log put back. Every tenth run damages a page file of the executor's disk tier.

No checksum sees that a whole file, or the log's last commits, are those of an earlier moment: what
is read then is a truth of one moment, and counted as that (`num_older`). A search may find less
where its index was damaged, and a listing marks what is (`num_unfound`). The control reads the same
files with no more than SQLite's own checks.
"""

import argparse
import contextlib
import json
import random
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import anyio
import msgspec
from sqlalchemy.exc import DBAPIError

from llmos.memory.db import Database
from llmos.syscalls.errors import E_STORAGE, SyscallError
from tests.faults import page_damage
from tests.faults.plain_reader import read_plainly
from tests.memory.example import NUM_CALLS, add_process, go_on, readers

NUM_PROCESSES = 4
NUM_MOMENTS = 4
PAGE_BYTES, SECTOR_BYTES = 4096, 512
MEMORY_DISK = Path("/dev/shm")
STORE, LOG = "llmos.db", "llmos.db-wal"
# What a reader must not raise, and what a damaged value could make one raise.
UNNAMED = (
    ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RuntimeError,
    sqlite3.Error, DBAPIError, msgspec.MsgspecError,
)  # fmt: skip
COUNTS = (
    "num_runs", "num_wrong", "num_unnamed", "num_right", "num_named", "num_older", "num_unfound",
)  # fmt: skip
Files = dict[str, bytearray]
Values = dict[str, object]
Report = Callable[[str], None]


class Moment(NamedTuple):
    """A store as it was: its files, everything read from it, and the same read plainly."""

    files: Mapping[str, bytes]
    values: Values
    plain: Values


class Outcome(NamedTuple):
    """What the readers gave: values by name, and errors by name."""

    values: Values
    errors: dict[str, BaseException]


def run(
    number: int, seed: int = 0, *, is_weak: bool = False, report: Report = lambda line: None
) -> dict[str, float]:
    """Play `number` damages. Of the counts `num_wrong` and `num_unnamed` are 0 when all is well."""
    num_pages = number // 10
    parent = MEMORY_DISK if MEMORY_DISK.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="damage-", dir=parent) as folder:
        play = anyio.run(_play, Path(folder), number - num_pages, seed, is_weak, report)
        pages = page_damage.run(Path(folder), num_pages, seed, is_weak=is_weak)
    return {name: float(play[name] + pages[name]) for name in COUNTS}


async def _play(
    folder: Path, number: int, seed: int, is_weak: bool, report: Report
) -> "Counter[str]":
    moments = await make_moments(folder / "intact")
    counts: Counter[str] = Counter()
    for index in range(number):
        rng = random.Random(f"{seed}/{index}")
        kind = rng.choice(sorted(KINDS))
        files, is_older = damage_files(kind, moments, rng)
        place = write_files(folder / "damaged", files)
        read = read_plainly(place / STORE) if is_weak else (await read_store(place / STORE))
        found = judge(moments, Outcome(*read), is_older=is_older, is_weak=is_weak)
        counts += found
        counts["num_runs"] += 1
        if found["num_wrong"] or found["num_unnamed"]:
            report(f"seed {seed}, run {index}: {kind}: {dict(found)}")
        if (index + 1) % 500 == 0:
            report(f"{index + 1} of {number}: {dict(counts)}")
    return counts


# -- the store before it is damaged


async def make_moments(folder: Path) -> list[Moment]:
    """A store at NUM_MOMENTS moments of its life, while its log is full; and at last closed."""
    write_files(folder, {})
    db = Database.open(folder / STORE)
    for _ in range(NUM_PROCESSES):
        await db.write(add_process)
    await db.aclose()
    moments = [await look(folder)]
    db = Database.open(folder / STORE)
    for moment in range(1, NUM_MOMENTS):
        for pid in range(1, NUM_PROCESSES + 1):
            await db.write(partial(go_on, pid=pid, first_seq=100 * moment))
        moments.append(await look(folder))
    await db.aclose()
    return [*moments, await look(folder)]


async def look(folder: Path) -> Moment:
    """The store now."""
    names = [name for name in (STORE, LOG) if (folder / name).exists()]
    files = {name: (folder / name).read_bytes() for name in names}
    copy = write_files(folder.with_name("look"), {n: bytearray(b) for n, b in files.items()})
    values, errors = await read_store(copy / STORE)
    plain, plain_errors = read_plainly(copy / STORE)
    assert not errors, errors
    assert not plain_errors, plain_errors
    return Moment(files, values, plain)


def write_files(folder: Path, files: Files) -> Path:
    """A folder with these files alone."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


# -- damage


def damage_files(kind: str, moments: list[Moment], rng: random.Random) -> tuple[Files, bool]:
    """A store's files after one damage, and whether an older truth may come of it."""
    newest = rng.choice([moments[-1], moments[-2]])  # closed, or with a log
    files = {name: bytearray(content) for name, content in newest.files.items()}
    if kind in ("old store", "old log", "old both", "no log"):
        old = rng.choice(moments[:-2])
        KINDS[kind](files, old.files, rng)
        return files, True
    name = rng.choice(sorted(files))
    KINDS[kind](files, {"": name.encode()}, rng)
    return files, name == LOG


def _flip(files: Files, where: Mapping[str, bytes], rng: random.Random) -> None:
    content = files[where[""].decode()]
    for _ in range(rng.randint(1, 4)):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def _blank(files: Files, where: Mapping[str, bytes], rng: random.Random) -> None:
    """A sector or a page, of zeros or of noise."""
    content = files[where[""].decode()]
    size = rng.choice((SECTOR_BYTES, PAGE_BYTES))
    start = rng.randrange(len(content) // size) * size
    content[start : start + size] = rng.choice((bytes(size), rng.randbytes(size)))


def _cut(files: Files, where: Mapping[str, bytes], rng: random.Random) -> None:
    content = files[where[""].decode()]
    size = rng.choice((1, SECTOR_BYTES, PAGE_BYTES))
    del content[rng.randrange(len(content) // size) * size :]


def _swap(files: Files, where: Mapping[str, bytes], rng: random.Random) -> None:
    content = files[where[""].decode()]
    one, other = (_page(content, rng) for _ in range(2))
    content[one], content[other] = content[other], content[one]


def _misplace(files: Files, where: Mapping[str, bytes], rng: random.Random) -> None:
    content = files[where[""].decode()]
    content[_page(content, rng)] = content[_page(content, rng)]


def _page(content: bytearray, rng: random.Random) -> slice:
    start = rng.randrange(len(content) // PAGE_BYTES) * PAGE_BYTES
    return slice(start, start + PAGE_BYTES)


def _old_store(files: Files, old: Mapping[str, bytes], rng: random.Random) -> None:
    files[STORE] = bytearray(old[STORE])


def _old_log(files: Files, old: Mapping[str, bytes], rng: random.Random) -> None:
    files[LOG] = bytearray(old.get(LOG, b""))


def _old_both(files: Files, old: Mapping[str, bytes], rng: random.Random) -> None:
    files.clear()
    files.update({name: bytearray(content) for name, content in old.items()})


def _no_log(files: Files, old: Mapping[str, bytes], rng: random.Random) -> None:
    files.pop(LOG, None)


KINDS: dict[str, Callable[[Files, Mapping[str, bytes], random.Random], None]] = {
    "flip": _flip,
    "flip again": _flip,
    "blank": _blank,
    "cut": _cut,
    "swap": _swap,
    "misplace": _misplace,
    "old store": _old_store,
    "old log": _old_log,
    "old both": _old_both,
    "no log": _no_log,
}


# -- what is read


async def read_store(path: Path) -> tuple[Values, dict[str, BaseException]]:
    """Everything by our own readers. A store that cannot be opened is an error of all of it."""
    values: Values = {}
    errors: dict[str, BaseException] = {}
    wanted = readers(NUM_PROCESSES, NUM_CALLS)
    try:
        db = Database.open(path)
    except (SyscallError, *UNNAMED) as error:
        return values, dict.fromkeys(wanted, error)
    for name, read in wanted.items():
        try:
            values[name] = await read(db)
        except (SyscallError, *UNNAMED) as error:
            errors[name] = error
    with contextlib.suppress(E_STORAGE):
        await db.aclose()
    return values, errors


def judge(
    moments: list[Moment], outcome: Outcome, *, is_older: bool, is_weak: bool
) -> "Counter[str]":
    """Count what is wrong, what was named, what is the truth of an earlier moment."""
    truths = [moment.plain if is_weak else moment.values for moment in reversed(moments)]
    counts: Counter[str] = Counter()
    for error in outcome.errors.values():
        # To deny that something exists is a typed error too, and true of an earlier moment alone.
        is_named = is_weak or isinstance(error, SyscallError if is_older else E_STORAGE)
        counts["num_named" if is_named else "num_unnamed"] += 1
    for name, value in outcome.values.items():
        counts[_judge_value(name, value, truths if is_older else truths[:1])] += 1
    return counts


def _judge_value(name: str, value: object, truths: list[Values]) -> str:
    """The name of a value's count. Of a listing or a search a part may be missing."""
    wanted = [truth[name] for truth in truths if name in truth]
    if value in wanted[:1]:
        return "num_right"
    if value in wanted:
        return "num_older"
    if isinstance(value, frozenset):
        is_part = any(isinstance(each, frozenset) and value <= each for each in wanted)
        return "num_unfound" if is_part else "num_wrong"
    if name == "listing" and isinstance(value, tuple):
        known = {record for each in wanted if isinstance(each, tuple) for record in each}
        is_part = all(record in known or record.state == "DAMAGED" for record in value)
        return "num_unfound" if is_part else "num_wrong"
    return "num_wrong"


def main() -> None:
    """Run from the command line; one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weak", action="store_true")
    words = parser.parse_args()
    counts = run(words.number, words.seed, is_weak=words.weak, report=partial(print, flush=True))
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
