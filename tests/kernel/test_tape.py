"""A tape answers in the order in which calls were answered then, and takes nothing more."""

from pathlib import Path

import msgspec
import pytest
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from llmos.kernel.machine import Machine
from llmos.kernel.tape import Key, Tape, Turns
from llmos.memory.journal import JournalRow
from llmos.syscalls.errors import E_ARG, E_NONDETERMINISM
from llmos.syscalls.table import TABLE
from llmos.syscalls.tasks import running

from .conftest import make_process
from .test_replay import recorded

pytestmark = pytest.mark.anyio


def call(strand: str, seq: int, started_at: float, ended_at: float | None = None) -> JournalRow:
    row = msgspec.structs.replace(recorded(), strand=strand, seq=seq, started_at=started_at)
    return msgspec.structs.replace(row, ended_at=ended_at)


class Calls:
    """Calls that have come and wait for their turns; `answered` are those that had them."""

    def __init__(self, tasks: TaskGroup, *rows: JournalRow) -> None:
        self.turns = Turns(rows)
        self.answered: list[Key] = []
        self._tasks = tasks

    async def come(self, *keys: Key) -> list[Key]:
        """Let calls come; all that are answered by then."""
        for key in keys:
            self.turns.come(key)
            self._tasks.start_soon(self._wait, key)
            await self.settle()
        return self.answered

    async def settle(self) -> None:
        """Let everybody who can run."""
        for _ in range(5):
            await checkpoint()

    async def _wait(self, key: Key) -> None:
        async with self.turns.turn(key):
            self.answered.append(key)


async def test_answers_come_in_the_order_of_their_ends() -> None:
    async with running() as tasks:
        rows = call("0.1", 0, 1.0, 4.0), call("0.2", 0, 1.0, 2.0), call("0.2", 1, 2.5, 3.0)
        calls = Calls(tasks, *rows)

        assert await calls.come(("0.1", 0)) == []
        assert await calls.come(("0.2", 0)) == [("0.2", 0)]
        assert await calls.come(("0.2", 1)) == [("0.2", 0), ("0.2", 1), ("0.1", 0)]


async def test_an_answer_waits_for_calls_that_had_begun_before_it() -> None:
    async with running() as tasks:
        calls = Calls(tasks, call("0.1", 0, 1.0, 3.0), call("0.2", 0, 2.0, 4.0))

        assert await calls.come(("0.1", 0)) == []
        assert await calls.come(("0.2", 0)) == [("0.1", 0), ("0.2", 0)]


async def test_a_call_is_waited_for_from_the_answer_on_that_it_came_of() -> None:
    rows = call("0.1", 0, 1.0, 3.0), call("0.2", 0, 1.0, 2.0), call("0.2", 1, 3.5, 4.0)
    async with running() as tasks:
        calls = Calls(tasks, *rows)

        assert await calls.come(("0.1", 0), ("0.2", 0)) == [("0.2", 0)]
        assert await calls.come(("0.2", 1)) == [("0.2", 0), ("0.1", 0), ("0.2", 1)]


async def test_calls_at_one_time_are_answered_as_they_come() -> None:
    async with running() as tasks:
        calls = Calls(tasks, call("0", 0, 1.0, 1.0), call("0", 1, 1.0, 1.0))

        assert await calls.come(("0", 0)) == [("0", 0)]
        assert await calls.come(("0", 1)) == [("0", 0), ("0", 1)]


async def test_what_is_not_on_the_tape_waits_for_nobody() -> None:
    async with running() as tasks:
        calls = Calls(tasks, call("0", 0, 1.0, 2.0), call("0", 1, 3.0))

        assert await calls.come(("0", 7), ("0", 1)) == [("0", 7), ("0", 1)]


async def test_the_first_that_waits_can_be_let_out() -> None:
    rows = call("0.1", 0, 1.0, 2.0), call("0.2", 0, 1.0, 3.0), call("0.3", 0, 1.0, 4.0)
    async with running() as tasks:
        calls = Calls(tasks, *rows)
        assert not calls.turns.let_one_out()
        assert await calls.come(("0.3", 0), ("0.2", 0)) == []

        assert calls.turns.let_one_out()
        await calls.settle()

        assert calls.answered == [("0.2", 0)]
        assert await calls.come(("0.1", 0)) == [("0.2", 0), ("0.1", 0), ("0.3", 0)]


@pytest.mark.parametrize("name", ["print", "tool", "wait", "now", "recall"])
async def test_a_call_that_has_or_keeps_an_effect_finds_no_entry(
    machine: Machine, tmp_path: Path, name: str
) -> None:
    tape = Tape(machine.journal)
    process = await make_process(machine, tmp_path)

    with pytest.raises(E_NONDETERMINISM, match="step 0:3 is not in the journal"):
        tape.entry(process, "0", 3, TABLE[name], TABLE[name].effect, b"")

    assert tape.refused == {("0", 3)}


async def test_a_pure_call_may_be_refused_but_not_begin(machine: Machine, tmp_path: Path) -> None:
    tape = Tape(machine.journal)
    process = await make_process(machine, tmp_path)
    entry = tape.entry(process, "0", 3, TABLE["generate"], "pure", b"")

    entry.fail(E_ARG("contradicts itself").reply())
    assert tape.refused == set()
    with pytest.raises(E_NONDETERMINISM):
        await entry.begin(durable=False)

    assert tape.refused == {("0", 3)}
    assert not entry.is_queued
