"""What apps, tools and persons saw, held against the store: the judge of the suites R1 and R5.

The evidence are files outside the store, to which whoever saw something appended it at that moment:
* `acks`: what each call of a player answered (player.Ack);
* `witness`: a line for each effect of the `once` tool, its place;
* `shown`: what a terminal showed and how processes ended, as the kernel told.

An answer to an app is a promise once something durable stands behind it: the reply of a
transactional call, or the beginning of a later call of the same strand whose INTENT is durable
before it runs, since rows become durable in order. Until then the app that heard the answer dies
with the kernel that gave it. What a person was shown, and an end that was told, is a promise at
once.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from llmos.kernel.listing import decode_spec
from llmos.memory import processes
from llmos.memory.db import Database
from llmos.memory.journal import JournalRow, load, read_output
from llmos.memory.processes import ProcessRecord
from llmos.syscalls.errors import SyscallError
from llmos.syscalls.ipc import Received
from llmos.syscalls.table import TABLE
from tests.faults.player.player import LEFT, MARK, Ack, digest_reply

ALL = 1 << 30
ACK_BYTES = 62  # of a line, about
PRINTED = re.compile(r"<[^>]*>")
PROVES_EARLIER = {"once", "idempotent", "wait"}
PROVES_ITSELF = {"transactional"}
EXPECTED = {"DONE", LEFT, "E_IN_DOUBT", "E_CANCELLED"}
COUNTS = (
    "num_processes",
    "num_calls",
    "num_in_doubt",
    "num_lost",
    "num_repeated_effects",
    "num_repeated_output",
    "num_untruthful",
    "num_unexpected",
    "num_corrupt",
    "num_unended",
)
Key = tuple[str, int]


class Shown(msgspec.Struct, frozen=True, array_like=True):
    """Text at a person's terminal, or with `status` how the process ended."""

    pid: int
    text: str
    status: str = ""


class Evidence:
    """The files of one state directory."""

    def __init__(self, folder: Path) -> None:
        self.acks = folder / "acks"
        self.witness = folder / "witness"
        self.shown = folder / "shown"

    def read_acks(self) -> dict[str, list[Ack]]:
        """The answers in the order in which they came, by the player's name."""
        found: dict[str, list[Ack]] = defaultdict(list)
        for line in read_lines(self.acks):
            ack = msgspec.json.decode(line, type=Ack)
            found[ack.name].append(ack)
        return found

    def read_marks(self) -> Counter[str]:
        """How often each place had its effect."""
        return Counter(line.decode() for line in read_lines(self.witness))

    def read_shown(self) -> dict[int, list[Shown]]:
        """What persons saw, by process."""
        found: dict[int, list[Shown]] = defaultdict(list)
        for line in read_lines(self.shown):
            shown = msgspec.json.decode(line, type=Shown)
            found[shown.pid].append(shown)
        return found


def read_lines(path: Path) -> list[bytes]:
    """The whole lines of a file that may not exist."""
    return path.read_bytes().splitlines() if path.exists() else []


def count_bytes(path: Path) -> int:
    """The size of a file that may not exist."""
    return path.stat().st_size if path.exists() else 0


def append(path: Path, line: bytes) -> None:
    """Add a line in one write, which no kill can tear."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, line + b"\n")
    os.close(file)


def find_effect(call: str) -> str:
    """The effect class of a player's call."""
    return "once" if call == MARK else TABLE[call].effect


def find_promises(acks: Iterable[Ack], *, has_ended: bool) -> dict[Key, Ack]:
    """The answers that something durable stands behind; of a call promised twice, the first.

    With `has_ended`, the end itself stands behind all that the last run was told.
    """
    threads: dict[tuple[str, str], list[Ack]] = defaultdict(list)
    last_run = ""
    for ack in acks:
        threads[ack.run, ack.strand].append(ack)
        last_run = ack.run
    promises: dict[Key, Ack] = {}
    for (run, _), told in threads.items():
        num_proved = len(told) if has_ended and run == last_run else count_proved(told)
        for ack in told[:num_proved]:
            promises.setdefault((ack.strand, ack.seq), ack)
    return promises


def count_proved(told: list[Ack]) -> int:
    """How many of a strand's answers are promises."""
    for index in range(len(told) - 1, -1, -1):
        effect = find_effect(told[index].call)
        if told[index].outcome == "DONE" and effect in PROVES_ITSELF:
            return index + 1
        if told[index].outcome == "DONE" and effect in PROVES_EARLIER:
            return index
    return 0


def find_letters(rows: Iterable[JournalRow]) -> list[str]:
    """The texts of the messages that a process has received."""
    bodies = [row.result for row in rows if row.name == "receive" and row.result is not None]
    received = [msgspec.msgpack.decode(body, type=Received) for body in bodies]
    return [one.letter.text for one in received if one.letter is not None]


@dataclass
class Case:
    """One process: what the store says, and what was seen of it."""

    record: ProcessRecord
    rows: Mapping[Key, JournalRow]
    output: Counter[str]
    acks: list[Ack]
    shown: list[Shown]
    marks: Mapping[str, int]
    expected: Set[str]
    counts: Counter[str]
    complaints: list[str] = field(default_factory=list)

    def judge(self) -> None:
        """Count what is wrong."""
        self.counts["num_processes"] += 1
        self.counts["num_calls"] += len(self.rows)
        has_ended = self.record.exit_status == "exited"
        for ack in find_promises(self.acks, has_ended=has_ended).values():
            self._judge_promise(ack)
        doubts = {(ack.strand, ack.seq): ack for ack in self.acks if ack.outcome == "E_IN_DOUBT"}
        for ack in doubts.values():
            self._judge_doubt(ack)
        for ack in self.acks:
            if ack.outcome not in self.expected | self._excuses():
                self._complain("num_unexpected", f"{ack}")
        if self.record.ended_at is None:
            self._complain("num_unended", self.record.state)
        self._judge_shown()

    def _excuses(self) -> set[str]:
        """A process that is being killed is refused what it would have to wait for."""
        return {"E_STORAGE"} if self.record.exit_status == "killed" else set()

    def _complain(self, what: str, why: str) -> None:
        self.counts[what] += 1
        self.complaints.append(f"{what} {self.record.pid}: {why}")

    def _judge_promise(self, ack: Ack) -> None:
        row = self.rows.get((ack.strand, ack.seq))
        if ack.outcome != "DONE" or find_effect(ack.call) == "null":
            return
        if row is None or row.result is None or digest_reply(row.result) != ack.digest:
            self._complain("num_lost", f"{ack} but {row}")
        place = f"{ack.name}/{ack.strand}/{ack.seq}"
        if ack.call == MARK and not self.marks.get(place):
            self._complain("num_lost", f"the effect of {place}")
        if ack.call == "print" and not self.output[f"<{place}>"]:
            self._complain("num_lost", f"the output of {place}")

    def _judge_doubt(self, ack: Ack) -> None:
        """A call is in doubt if it was begun, and nobody was told how it ended."""
        self.counts["num_in_doubt"] += 1
        row = self.rows.get((ack.strand, ack.seq))
        if row is None or row.state not in ("INTENT", "IN_DOUBT"):
            self._complain("num_untruthful", f"{ack} but {row}")

    def _judge_shown(self) -> None:
        seen: Counter[str] = Counter()
        for shown in self.shown:
            seen.update(PRINTED.findall(shown.text))
            if shown.status and shown.status != self.record.exit_status:
                self._complain("num_lost", f"{shown} but {self.record.exit_status}")
        for text, times in seen.items():
            if text not in self.output:
                self._complain("num_lost", f"{text} was shown")
            if times > 1:
                self._complain("num_repeated_output", f"{text} was shown {times} times")
        for text, times in self.output.items():
            if times > 1:
                self._complain("num_repeated_output", f"{text} is stored {times} times")


async def judge(
    db: Database, evidence: Evidence, expected: Set[str] = EXPECTED
) -> tuple[dict[str, float], list[str]]:
    """What is wrong with a state directory, counted, and in words.

    `db` has written all it had; calls may have had the outcomes that are `expected`.
    """
    counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
    complaints: list[str] = []
    acks, marks, shown = evidence.read_acks(), evidence.read_marks(), evidence.read_shown()
    names: Counter[str] = Counter()
    letters: Counter[str] = Counter()
    for record in await processes.list(db, ALL):
        name = decode_spec(record).argv[0]
        names[name] += 1
        try:
            rows = {(row.strand, row.seq): row for row in await load(db, record.pid)}
        except SyscallError as error:
            counts["num_corrupt"] += 1
            complaints.append(f"num_corrupt {record.pid}: {error}")
            continue
        letters.update(find_letters(rows.values()))
        output = Counter(PRINTED.findall(await read_output(db, record.pid)))
        case = Case(record, rows, output, acks[name], shown[record.pid], marks, expected, counts)
        case.judge()
        complaints += case.complaints
    notes = await db.read(lambda c: c.exec_driver_sql("SELECT body FROM item").scalars().all())
    for what in (names, marks, letters, Counter(notes)):
        for key, times in what.items():
            if times > 1:
                counts["num_repeated_effects"] += 1
                complaints.append(f"num_repeated_effects: {key} {times} times")
    return dict(counts), complaints
