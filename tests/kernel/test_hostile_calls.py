"""Cancels and clocks at the worst moment: what the journal says is what the app was told."""

import threading

import anyio
import msgspec
import pytest

from llmos.kernel.journal import digest_call
from llmos.kernel.machine import Machine
from llmos.syscalls.table import TABLE
from llmos.syscalls.values import Sleep

from .conftest import Attach, read_rows

pytestmark = pytest.mark.anyio


async def test_a_call_that_is_cancelled_while_its_intent_is_written_is_journaled_as_cancelled(
    attach: Attach, machine: Machine
) -> None:
    sys, process = await attach()
    gate = threading.Event()
    machine.db.write_nowait(lambda connection: gate.wait(10))  # the disk takes its time

    with anyio.move_on_after(0.3):
        await sys.sleep(100)
    gate.set()
    while process.in_flight:  # noqa: ASYNC110
        await anyio.sleep(0.01)
    await sys.now()

    rows = [(row.name, row.state) for row in await read_rows(machine, process)]
    assert rows == [("sleep", "CANCELLED"), ("now", "DONE")]


async def test_a_clock_that_was_set_back_makes_no_sleep_longer(
    attach: Attach, machine: Machine
) -> None:
    _, process = await attach()
    row, digest = TABLE["sleep"], digest_call(Sleep(0.1))
    entry = machine.journal.entry(process, "0", 0, row, "wait", digest)
    await entry.begin(durable=True)
    (begun,) = await read_rows(machine, process)
    later = msgspec.structs.replace(begun, started_at=begun.started_at + 3600)

    process.journaled = {("0", 0): later}
    again, _ = await attach(again=process)

    with anyio.fail_after(5):
        await again.sleep(0.1)
