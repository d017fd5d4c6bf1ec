"""A tape answers in the order in which calls were answered then, and takes nothing more."""

from pathlib import Path

import anyio
import msgspec
import pytest
from anyio.lowlevel import checkpoint

from llmos.kernel.machine import Machine
from llmos.kernel.tape import Key, Tape, Turns
from llmos.memory.journal import JournalRow
from llmos.syscalls.errors import E_ARG, E_NONDETERMINISM
from llmos.syscalls.table import TABLE

from .conftest import make_process
from .test_replay import recorded

pytestmark = pytest.mark.anyio


def ended(strand: str, seq: int, ended_at: float | None) -> JournalRow:
    return msgspec.structs.replace(recorded(), strand=strand, seq=seq, ended_at=ended_at)


async def come(turns: Turns, answered: list[Key], *keys: Key) -> None:
    """Let calls come one after another; `answered` hears of those that had their turn."""

    async def wait(key: Key) -> None:
        await turns.wait(key)
        answered.append(key)

    async with anyio.create_task_group() as tasks:
        for key in keys:
            tasks.start_soon(wait, key)
            await checkpoint()
        for _ in range(10):
            await checkpoint()
        tasks.cancel_scope.cancel()


async def test_answers_come_in_the_order_of_their_ends() -> None:
    turns = Turns([ended("0.1", 0, 3.0), ended("0.2", 0, 1.0), ended("0.2", 1, 2.0)])
    answered: list[Key] = []

    await come(turns, answered, ("0.1", 0), ("0.2", 0), ("0.2", 1))

    assert answered == [("0.2", 0), ("0.2", 1), ("0.1", 0)]


async def test_of_ends_at_the_same_time_the_first_to_begin_is_first() -> None:
    turns = Turns([ended("0.1", 0, 1.0), ended("0.2", 0, 1.0)])
    answered: list[Key] = []

    await come(turns, answered, ("0.2", 0), ("0.1", 0))

    assert answered == [("0.1", 0), ("0.2", 0)]


async def test_what_is_not_on_the_tape_waits_for_nobody() -> None:
    turns = Turns([ended("0", 0, 1.0), ended("0", 1, None)])
    answered: list[Key] = []

    await come(turns, answered, ("0", 7), ("0", 1))

    assert answered == [("0", 7), ("0", 1)]


async def test_the_first_that_waits_can_be_let_out() -> None:
    turns = Turns([ended("0.1", 0, 1.0), ended("0.2", 0, 2.0), ended("0.3", 0, 3.0)])
    answered: list[Key] = []
    assert not turns.let_one_out()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(come, turns, answered, ("0.3", 0), ("0.2", 0))
        for _ in range(5):
            await checkpoint()
        assert turns.let_one_out()

    assert answered == [("0.2", 0)]


@pytest.mark.parametrize("name", ["print", "tool", "wait", "now", "recall"])
async def test_a_call_that_has_or_keeps_an_effect_finds_no_entry(
    machine: Machine, tmp_path: Path, name: str
) -> None:
    tape = Tape(machine.db, machine.clock)
    process = await make_process(machine, tmp_path)

    with pytest.raises(E_NONDETERMINISM, match="step 0:3 is not in the journal"):
        tape.entry(process, "0", 3, TABLE[name], TABLE[name].effect, b"")

    assert tape.refused == {("0", 3)}


async def test_a_pure_call_may_be_refused_but_not_begin(machine: Machine, tmp_path: Path) -> None:
    tape = Tape(machine.db, machine.clock)
    process = await make_process(machine, tmp_path)
    entry = tape.entry(process, "0", 3, TABLE["generate"], "pure", b"")

    entry.fail(E_ARG("contradicts itself").reply())
    assert tape.refused == set()
    with pytest.raises(E_NONDETERMINISM):
        await entry.begin(durable=False)

    assert tape.refused == {("0", 3)}
    assert not entry.is_queued
