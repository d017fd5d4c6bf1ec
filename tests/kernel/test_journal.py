"""An entry: what a call leaves in the store before, with and after it."""

from pathlib import Path

import msgspec
import pytest

from llmos.kernel.journal import Entry, digest_call
from llmos.kernel.machine import Machine
from llmos.kernel.process import Process
from llmos.memory.db import Connection
from llmos.memory.journal import JournalRow, append_output, read_output
from llmos.syscalls.errors import E_ARG, E_CANCELLED, E_STORAGE, ErrorReply
from llmos.syscalls.table import TABLE
from llmos.syscalls.values import Now, Sleep
from llmos.syscalls.wire import encode
from tests.memory.conftest import no_room

from .conftest import make_process, read_rows

pytestmark = pytest.mark.anyio
DIGEST = digest_call(Now())


@pytest.fixture
async def process(machine: Machine, tmp_path: Path) -> Process:
    process = await make_process(machine, tmp_path)
    process.code_hash = "code"
    return process


def entry_of(
    machine: Machine,
    process: Process,
    name: str = "now",
    seq: int = 0,
    recorded: JournalRow | None = None,
) -> Entry:
    row = TABLE[name]
    return machine.journal.entry(process, "0", seq, row, row.effect, DIGEST, recorded)


async def test_an_entry_that_never_began_leaves_nothing(machine: Machine, process: Process) -> None:
    entry_of(machine, process)

    assert await read_rows(machine, process) == []


@pytest.mark.parametrize("durable", [True, False])
async def test_a_call_that_began_is_an_intent(
    machine: Machine, process: Process, durable: bool
) -> None:
    await entry_of(machine, process, "sleep").begin(durable=durable)

    (row,) = await read_rows(machine, process)
    assert (row.pid, row.strand, row.seq, row.name) == (process.pid, "0", 0, "sleep")
    assert (row.state, row.effect, row.result, row.ended_at) == ("INTENT", "wait", None, None)
    assert (row.digest, row.code_hash) == (DIGEST, "code")


async def test_a_durable_intent_is_readable_at_once(machine: Machine, process: Process) -> None:
    await entry_of(machine, process).begin(durable=True)

    rows = await machine.db.read(
        lambda connection: connection.exec_driver_sql("SELECT state FROM journal").all()
    )
    assert [row.state for row in rows] == ["INTENT"]


async def test_beginning_twice_is_beginning_once(machine: Machine, process: Process) -> None:
    entry = entry_of(machine, process)

    await entry.begin(durable=False)
    await entry.begin(durable=True)

    assert len(await read_rows(machine, process)) == 1


@pytest.mark.parametrize("begun", [True, False])
async def test_an_end_holds_the_result(machine: Machine, process: Process, begun: bool) -> None:
    entry = entry_of(machine, process)
    if begun:
        await entry.begin(durable=False)

    entry.end("DONE", b"\xc0")

    (row,) = await read_rows(machine, process)
    assert (row.state, row.result, row.error) == ("DONE", b"\xc0", None)
    assert row.ended_at is not None
    assert row.ended_at >= row.started_at


async def test_an_error_is_kept_as_it_travels(machine: Machine, process: Process) -> None:
    error = E_ARG("why", field="place").reply()

    entry_of(machine, process).fail(error)

    (row,) = await read_rows(machine, process)
    assert (row.state, row.result) == ("FAILED", None)
    assert msgspec.msgpack.decode(row.error or b"", type=ErrorReply) == error


async def test_a_cancel_is_an_ending_of_its_own(machine: Machine, process: Process) -> None:
    entry = entry_of(machine, process, "sleep")
    await entry.begin(durable=True)

    entry.fail(E_CANCELLED("enough", partial="so far").reply(), "CANCELLED")

    (row,) = await read_rows(machine, process)
    assert row.state == "CANCELLED"


@pytest.mark.parametrize(("begun", "num_rows"), [(False, 0), (True, 1)])
async def test_a_pure_call_that_was_refused_before_it_began_leaves_no_row(
    machine: Machine, process: Process, begun: bool, num_rows: int
) -> None:
    entry = entry_of(machine, process, "generate")
    if begun:
        await entry.begin(durable=False)

    entry.fail(E_ARG("no").reply())

    assert len(await read_rows(machine, process)) == num_rows


async def test_an_effect_and_its_row_are_one_transaction(
    machine: Machine, process: Process
) -> None:
    def effect(connection: Connection) -> bytes:
        return encode(append_output(connection, process.pid, "hello"))

    result = await entry_of(machine, process, "print").commit(effect)

    (row,) = await read_rows(machine, process)
    assert (row.state, row.result) == ("DONE", result)
    assert await read_output(machine.db, process.pid) == "hello"


async def test_an_effect_that_fails_leaves_neither_itself_nor_a_row(
    machine: Machine, process: Process
) -> None:
    def effect(connection: Connection) -> bytes:
        append_output(connection, process.pid, "hello")
        raise E_ARG("on second thought")

    with pytest.raises(E_ARG, match="second thought"):
        await entry_of(machine, process, "print").commit(effect)

    assert await read_rows(machine, process) == []
    assert await read_output(machine.db, process.pid) == ""


async def test_an_effect_whose_row_is_taken_is_undone(machine: Machine, process: Process) -> None:
    entry_of(machine, process, "print").end("DONE", b"\xc0")

    with pytest.raises(E_STORAGE):
        await entry_of(machine, process, "print").commit(
            lambda connection: encode(append_output(connection, process.pid, "again"))
        )

    assert await read_output(machine.db, process.pid) == ""


async def test_a_call_that_a_replay_found_goes_on_in_its_row(
    machine: Machine, process: Process
) -> None:
    await entry_of(machine, process, "sleep").begin(durable=True)
    rows = await read_rows(machine, process)

    entry = entry_of(machine, process, "sleep", recorded=rows[0])
    await entry.begin(durable=True)
    entry.end("DONE", b"\x80")

    (row,) = await read_rows(machine, process)
    assert (row.state, row.started_at) == ("DONE", rows[0].started_at)


async def test_rows_stand_in_the_order_in_which_calls_began(
    machine: Machine, process: Process
) -> None:
    first, second = entry_of(machine, process, seq=0), entry_of(machine, process, seq=1)
    await first.begin(durable=False)
    await second.begin(durable=False)

    second.end("DONE", b"\xc0")
    first.end("DONE", b"\xc0")

    assert [row.seq for row in await read_rows(machine, process)] == [0, 1]


def test_a_digest_is_of_the_arguments_alone() -> None:
    assert digest_call(Sleep(1.0)) == digest_call(Sleep(1.0))
    assert digest_call(Sleep(1.0)) != digest_call(Sleep(2.0))


FAILS_NOW = E_STORAGE("the store failed: disk I/O error", retry_after_seconds=5)


async def test_a_call_that_the_store_refuses_before_it_began_is_to_come_again(
    machine: Machine, process: Process
) -> None:
    entry = entry_of(machine, process, "sleep")
    with no_room(1000), pytest.raises(E_STORAGE) as caught:
        await entry.begin(durable=True)

    heard = entry.refuse(caught.value).reply()

    assert (heard.code, heard.field, heard.retry_after_seconds) == ("E_BUSY", "seq", 1)
    assert await read_rows(machine, process) == []


async def test_a_call_that_has_a_row_has_failed(machine: Machine, process: Process) -> None:
    begun, ended = entry_of(machine, process, "sleep"), entry_of(machine, process, seq=1)
    await begun.begin(durable=True)
    ended.fail(FAILS_NOW.reply())  # the disk was read in vain, and takes the row

    assert [each.refuse(FAILS_NOW) for each in (begun, ended)] == [FAILS_NOW, FAILS_NOW]
    assert [row.state for row in await read_rows(machine, process)] == ["INTENT", "FAILED"]


async def test_a_store_that_will_not_recover_is_heard_of(
    machine: Machine, process: Process
) -> None:
    damaged = E_STORAGE("the journal's call 1/0/0 is damaged")

    assert entry_of(machine, process).refuse(damaged) is damaged
