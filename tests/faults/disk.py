"""What a disk may hold after a power cut, computed from the log of what was done to a folder.

Durable is what was in a file when it was last synced, and the names that were in the folder when
that was. Of what came after any part may have reached the disk: any writes in any order, each in
any of its sectors; a file's new size with or without what fills it; names. A sync that failed
makes nothing durable.

The bytes around a write in its sector keep their value, as SQLite assumes (sqlite.org/psow.html).
"""

import random
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

HEADER = struct.Struct("=qqqq")
SECTOR_BYTES = (512, 4096)
CHANCES = (0.1, 0.5, 0.9)
SHUFFLED, RESIZED = 0.25, 0.25  # of the power cuts
Folder = dict[str, bytes]  # the files of a folder by name


class Kind(IntEnum):
    """What was done; the numbers are those of shim.c."""

    CREATE = 1
    WRITE = 2
    TRUNCATE = 3
    SYNC = 4
    SYNC_FOLDER = 5
    UNLINK = 6
    RENAME = 7
    MARK = 8
    REVERT = 9
    FORGET = 10


NAMING = frozenset({Kind.CREATE, Kind.UNLINK, Kind.RENAME})


@dataclass(frozen=True)
class Operation:
    """One call. `offset` is the new size of a TRUNCATE and the number of a MARK."""

    kind: Kind
    file: int = 0
    offset: int = 0
    data: bytes = b""


def read_log(path: Path) -> list[Operation]:
    """The operations of a log in their order; a file has a number that no later one gets.

    An operation that is only just being written down is left out.
    """
    return list(_read(path.read_bytes()))


def _read(log: bytes) -> Iterator[Operation]:
    numbers: dict[int, int] = {}  # by inode: file systems use those again
    num_files = place = 0
    while place + HEADER.size <= len(log):
        kind, inode, offset, num_bytes = HEADER.unpack_from(log, place)
        place += HEADER.size
        if place + num_bytes > len(log):
            return
        if kind == Kind.CREATE:
            num_files += 1
            numbers[inode] = num_files
        data = log[place : place + num_bytes]
        yield Operation(Kind(kind), numbers.get(inode, 0), offset, data)
        place += num_bytes


class Disk:
    """A disk while a log is played on it: what is durable, all that was done since, what is seen.

    Programs see what the system has in its memory: all of it, but what a failed sync put back.
    """

    def __init__(self) -> None:
        self._durable: dict[int, bytearray] = {}
        self._names: dict[str, int] = {}
        self._pending: list[Operation] = []
        self._seen: dict[int, bytearray] = {}
        self._seen_names: dict[str, int] = {}
        self.last_mark = -1

    def apply(self, operation: Operation) -> None:
        """Play the next operation."""
        file = operation.file
        match operation.kind:
            case Kind.MARK:
                self.last_mark = max(self.last_mark, operation.offset)
            case Kind.SYNC:
                content = self._durable.setdefault(file, bytearray())
                for pending in self._take(file):
                    change(content, pending)
            case Kind.SYNC_FOLDER:
                for pending in self._take(None):
                    rename(self._names, pending)
            case Kind.REVERT:
                self._take(file)
                self._seen[file] = bytearray(self._durable.get(file, b""))
            case Kind.FORGET:
                self._take(file)
            case Kind.WRITE | Kind.TRUNCATE:
                self._pending.append(operation)
                change(self._seen.setdefault(file, bytearray()), operation)
            case _:
                self._pending.append(operation)
                rename(self._seen_names, operation)

    def _take(self, file: int | None) -> list[Operation]:
        """What is pending of a file, or of the folder's names; it is no longer."""
        before, self._pending = self._pending, []
        taken: list[Operation] = []
        for pending in before:
            owner = None if pending.kind in NAMING else pending.file
            (taken if owner == file else self._pending).append(pending)
        return taken

    def seen(self) -> Folder:
        """The folder as a program finds it that starts while the system lives."""
        return {name: bytes(self._seen.get(file, b"")) for name, file in self._seen_names.items()}

    def durable(self) -> Folder:
        """The folder after a power cut, if nothing of what is pending has reached the disk."""
        return self._build(())

    def cut(self, rng: random.Random) -> Folder:
        """The folder after a power cut at this moment: one of the many that it may be."""
        reached = pick(self._pending, rng)
        if rng.random() < SHUFFLED:
            rng.shuffle(reached)
        if rng.random() < RESIZED:
            reached += self._resize(rng)
        return self._build(reached)

    def _resize(self, rng: random.Random) -> Iterator[Operation]:
        """Files get other sizes that they had or were to have; what they grow by is anything."""
        ends: dict[int, list[int]] = {}
        for pending in self._pending:
            if pending.kind not in NAMING:
                ends.setdefault(pending.file, []).append(pending.offset + len(pending.data))
        for file, sizes in ends.items():
            before = len(self._durable.get(file, b""))
            after = max(*sizes, before)
            if after > before and rng.random() < 0.5:
                kept = rng.randrange(before, after)
                yield Operation(Kind.TRUNCATE, file, kept)
                fill = bytes(1) if rng.random() < 0.5 else rng.randbytes(1)
                if rng.random() < 0.5:
                    yield Operation(Kind.WRITE, file, kept, fill * (after - kept))

    def _build(self, reached: Sequence[Operation]) -> Folder:
        names = dict(self._names)
        files: dict[int, bytearray] = {}
        for operation in reached:
            if operation.kind in NAMING:
                rename(names, operation)
            else:
                if operation.file not in files:
                    files[operation.file] = bytearray(self._durable.get(operation.file, b""))
                change(files[operation.file], operation)
        return {
            name: bytes(files.get(file, self._durable.get(file, b"")))
            for name, file in names.items()
        }


def pick(pending: Sequence[Operation], rng: random.Random) -> list[Operation]:
    """What reaches the disk: the first of it, some of it, or some sectors of it."""
    chance, sector_bytes = rng.choice(CHANCES), rng.choice(SECTOR_BYTES)
    match rng.randrange(3):
        case 0:
            first = rng.randint(0, len(pending))
            torn = pending[first : first + 1]
            return [*pending[:first], *some(pieces(torn, sector_bytes), 0.5, rng)]
        case 1:
            return some(pending, chance, rng)
        case _:
            return some(pieces(pending, sector_bytes), chance, rng)


def some(
    operations: Sequence[Operation] | Iterator[Operation], chance: float, rng: random.Random
) -> list[Operation]:
    """Each with this chance."""
    return [operation for operation in operations if rng.random() < chance]


def pieces(operations: Sequence[Operation], sector_bytes: int) -> Iterator[Operation]:
    """The operations, with every write taken apart into its sectors."""
    for operation in operations:
        if operation.kind is not Kind.WRITE:
            yield operation
            continue
        start, end = operation.offset, operation.offset + len(operation.data)
        while start < end:
            stop = min(end, (start // sector_bytes + 1) * sector_bytes)
            part = operation.data[start - operation.offset : stop - operation.offset]
            yield replace(operation, offset=start, data=part)
            start = stop


def change(content: bytearray, operation: Operation) -> None:
    """Write into a file, or cut it; a gap is filled with zeros."""
    content.extend(bytes(max(0, operation.offset - len(content))))
    if operation.kind is Kind.TRUNCATE:
        del content[operation.offset :]
    else:
        content[operation.offset : operation.offset + len(operation.data)] = operation.data


def rename(names: dict[str, int], operation: Operation) -> None:
    """Make, take away or change a name."""
    name = operation.data.decode()
    match operation.kind:
        case Kind.CREATE:
            names[name] = operation.file
        case Kind.UNLINK:
            names.pop(name, None)
        case _:
            old, _, new = name.partition("/")
            if old in names:
                names[new] = names.pop(old)
