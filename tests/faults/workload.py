"""What the store is asked to do while its disk is watched: steps that depend on those before.

Every step is one operation for the store's writer and leaves its number in the store, so that a
store says itself how many steps it holds: it has to be what so many steps make, no more, no less.
"""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from llmos.memory import contexts, processes, store
from llmos.memory.checksum import checksum
from llmos.memory.db import Connection, Database
from llmos.memory.driver import driver_of
from llmos.memory.journal import JournalRow, append_output, finish_row, insert_row, load
from llmos.memory.schema import metadata
from llmos.syscalls.errors import E_STORAGE
from llmos.syscalls.types import Message

Step = Callable[[Connection], None]
NUM_PIDS = 3
NUM_PLAIN = 6  # the first steps: they need nothing that a later migration brings
WORDS = "store disk page sync commit power write sector frame header journal agent".split()
COUNT = "SELECT count(*) FROM space WHERE tenant = 'steps'"
ADD = "INSERT INTO space(tenant, name) VALUES ('steps', ?)"
# What two stores differ in that took the same steps.
VOLATILE = {
    "context": {"created_at", "checksum"},
    "item": {"uid", "deleted_at", "checksum"},
    "last_commit": {"id", "number"},  # the writer's own
}
COMPARE_INDEX = "INSERT INTO item_fts(item_fts, rank) VALUES ('integrity-check', 1)"


def make_steps(seed: int, num_steps: int) -> list[Step]:
    """The steps of a seed: always the same."""
    script = Script(seed)
    steps = [script.make_plain() for _ in range(NUM_PLAIN)]
    steps += [script.make() for _ in range(num_steps - NUM_PLAIN)]
    return [partial(apply, number, step) for number, step in enumerate(steps, start=1)]


def apply(number: int, step: Step, connection: Connection) -> None:
    """Do a step and write down its number."""
    step(connection)
    connection.exec_driver_sql(ADD, (str(number),))


class Script:
    """Makes steps up, each one possible after those before."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._begun: list[tuple[int, int]] = []  # calls without an outcome: pid, seq
        self._num_calls = 0
        self._num_contexts = 0
        self._texts: list[str] = []

    def make(self) -> Step:
        """Any step."""
        makers = [self.make_plain, self._remember, self._append, self._spawn]
        if self._texts:
            makers.append(self._forget)
        return self._rng.choice(makers)()

    def make_plain(self) -> Step:
        """A step with calls and output alone."""
        makers = [self._begin, self._print, self._finish if self._begun else self._begin]
        return self._rng.choice(makers)()

    def _row(self, state: str = "INTENT") -> JournalRow:
        self._num_calls += 1
        done = state == "DONE"
        return JournalRow(
            pid=self._rng.randint(1, NUM_PIDS),
            strand="0",
            seq=self._num_calls,
            name="tool",
            effect="once",
            digest=self._rng.randbytes(16),
            state="DONE" if done else "INTENT",
            result=self._body() if done else None,
            error=None,
            label="",
            code_hash="1",
            started_at=float(self._num_calls),
            ended_at=float(self._num_calls) if done else None,
        )

    def _body(self) -> bytes:
        """Most results are short; some fill pages of their own."""
        return self._rng.randbytes(self._rng.choice((0, 40, 400, 3000, 20_000)))

    def _text(self) -> str:
        return " ".join(self._rng.choices(WORDS, k=self._rng.choice((3, 12, 60, 400))))

    def _begin(self) -> Step:
        row = self._row()
        self._begun.append((row.pid, row.seq))
        return lambda connection: insert_row(connection, row)

    def _finish(self) -> Step:
        pid, seq = self._begun.pop(self._rng.randrange(len(self._begun)))
        result = self._body()
        return lambda connection: finish_row(
            connection, pid, "0", seq, "DONE", result, None, float(seq)
        )

    def _print(self) -> Step:
        row, text = self._row("DONE"), self._text()

        def step(connection: Connection) -> None:
            append_output(connection, row.pid, text)
            insert_row(connection, row)

        return step

    def _remember(self) -> Step:
        text = f"{self._num_calls} {self._text()}"
        self._texts.append(text)
        kind, session = self._rng.choice((("note", None), ("turn", "talk")))
        item = store.Item("local", "notes", text, 1e9, kind=kind, session=session)
        return lambda connection: void(store.remember(connection, item))

    def _spawn(self) -> Step:
        return lambda connection: void(
            processes.create_row(
                connection,
                app="worker",
                spec=b"",
                tenant="local",
                model="echo",
                state="NEW",
                parent=None,
                created_at=0.0,
            )
        )

    def _forget(self) -> Step:
        text = self._texts.pop(self._rng.randrange(len(self._texts)))

        def step(connection: Connection) -> None:
            query = "SELECT uid FROM item WHERE body = ?"
            uid = connection.exec_driver_sql(query, (text,)).scalars().first()
            store.forget(connection, "local", "notes", str(uid))

        return step

    def _append(self) -> Step:
        messages = (Message("user", self._text()),)
        if not self._num_contexts or self._rng.random() < 0.2:
            self._num_contexts += 1
            return lambda connection: void(contexts.create(connection, 1, messages))
        number = self._rng.randint(1, self._num_contexts)
        return lambda connection: void(contexts.append(connection, 1, number, messages))


def void(result: object) -> None:
    """Let a result go: steps have none."""


def list_queries() -> list[str]:
    """What reads all of a store that the steps decide."""
    queries = []
    for table in metadata.sorted_tables:
        kept = [column.name for column in table.columns]
        kept = [name for name in kept if name not in VOLATILE.get(table.name, ())]
        if kept:
            order = ", ".join(column.name for column in table.primary_key)
            queries.append(f"SELECT {', '.join(kept)} FROM {table.name} ORDER BY {order}")
    return queries


CONTENTS = list_queries()


def take_snapshot(connection: Connection) -> tuple[int, bytes]:
    """How many steps a store holds, and a digest of all that they left, checksums too."""
    driver = driver_of(connection)
    contents = [driver.execute(query).fetchall() for query in CONTENTS]
    (num_steps,) = driver.execute(COUNT).fetchone()
    return num_steps, checksum(msgspec.msgpack.encode(contents))


def require_sound(connection: Connection) -> None:
    """E_STORAGE if SQLite finds damage in the file, its references or its text index.

    In the writer's transaction: the index is compared by a statement that is a change.
    """
    driver = driver_of(connection)
    found = driver.execute("PRAGMA integrity_check").fetchall()
    foreign = driver.execute("PRAGMA foreign_key_check").fetchall()
    if found != [("ok",)] or foreign:
        raise E_STORAGE(f"the file is damaged: {found}, {foreign}")
    driver.execute(COMPARE_INDEX)


async def require_readable(db: Database) -> None:
    """E_STORAGE if a call or a message is damaged or missing."""
    for pid in range(1, NUM_PIDS + 1):
        await load(db, pid)
    await db.read(_read_contexts)


def _read_contexts(connection: Connection) -> None:
    for number, pid in connection.exec_driver_sql("SELECT id, pid FROM context").all():
        contexts.read(connection, pid, number)


async def take_reference(path: Path, seed: int, num_steps: int) -> list[bytes]:
    """The digest of a store after each number of steps, from 0 on. The last store is readable."""
    db = Database.open(path)
    digests = [(await db.write(take_snapshot))[1]]
    for step in make_steps(seed, num_steps):
        await db.write(step)
        digests.append((await db.write(take_snapshot))[1])
    await require_readable(db)
    await db.aclose()
    return digests
