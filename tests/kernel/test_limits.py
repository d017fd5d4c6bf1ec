"""The journal's limits: a warning at half, a refusal at the full, and the same after a restart."""

from collections.abc import Callable

import pytest

from llmos.kernel.journal import Journal
from llmos.kernel.limits import MAX_JOURNAL_BYTES, MAX_JOURNAL_ROWS, JournalLimits
from llmos.kernel.machine import Machine
from llmos.kernel.protocol import Notice, Output
from llmos.kernel.terminal import Terminal
from llmos.memory.journal import row_bytes
from llmos.syscalls.errors import E_LIMIT, E_TOOL

from .conftest import Attach, begin_replay, read_rows

pytestmark = pytest.mark.anyio
Limit = Callable[[JournalLimits], None]


@pytest.fixture
def limit(machine: Machine) -> Limit:
    """Give the machine a journal with these limits."""

    def limit(limits: JournalLimits) -> None:
        machine.journal = Journal(machine.db, machine.clock, limits)

    return limit


def test_the_limits_are_those_of_the_documents() -> None:
    assert (MAX_JOURNAL_ROWS, MAX_JOURNAL_BYTES) == (50_000, 50_000_000)
    assert JournalLimits() == JournalLimits(MAX_JOURNAL_ROWS, MAX_JOURNAL_BYTES)


async def test_a_call_past_the_last_row_is_refused_and_leaves_none(
    attach: Attach, machine: Machine, limit: Limit
) -> None:
    limit(JournalLimits(max_rows=3))
    system, process = await attach()
    for _ in range(3):
        await system.random()

    with pytest.raises(E_LIMIT, match=r"full with 3 calls .* fix: call sys\.checkpoint") as caught:
        await system.random()

    assert caught.value.field == "journal"
    assert len(await read_rows(machine, process)) == 3


async def test_large_results_fill_a_journal_too(
    attach: Attach, machine: Machine, limit: Limit
) -> None:
    limit(JournalLimits(max_bytes=2_000))
    system, _ = await attach()
    await system.generate("word " * 500)

    with pytest.raises(E_LIMIT, match="is full"):
        await system.random()


async def test_the_null_call_leaves_no_row_and_is_never_refused(
    attach: Attach, limit: Limit
) -> None:
    limit(JournalLimits(max_rows=1))
    system, process = await attach()
    await system.random()

    assert await system.getpid() == process.pid


async def test_a_process_is_warned_once_at_half(attach: Attach, limit: Limit) -> None:
    limit(JournalLimits(max_rows=6))
    system, process = await attach()
    process.terminal = Terminal()

    for _ in range(6):
        await system.print("x", end="")

    events = [await process.terminal.next_event() for _ in range(7)]
    notices = [event for event in events if isinstance(event, Notice)]
    what = f"the journal of process {process.pid} is half full"
    assert notices == [Notice(f"{what}; fix: sys.checkpoint, before calls are refused")]
    assert sum(isinstance(event, Output) for event in events) == 6


async def test_what_was_counted_is_what_a_restart_counts(attach: Attach, machine: Machine) -> None:
    system, process = await attach()
    await system.random()
    await system.generate("hello there", show=True)
    await system.sleep(0.0)
    await system.print("x")
    with pytest.raises(E_TOOL):
        await system.tool("calculator", expression="1 / 0")
    counted = process.num_journal_rows, process.num_journal_bytes

    await begin_replay(machine, process)

    assert (process.num_journal_rows, process.num_journal_bytes) == counted
    assert counted == (5, sum(map(row_bytes, await read_rows(machine, process))))


async def test_a_replay_is_refused_where_the_first_run_was(
    attach: Attach, machine: Machine, limit: Limit
) -> None:
    limit(JournalLimits(max_rows=2))
    system, process = await attach()
    process.terminal = Terminal()
    first = [await system.random(), await system.random()]
    with pytest.raises(E_LIMIT) as refused:
        await system.now()

    await begin_replay(machine, process)
    again, _ = await attach(again=process)

    assert [await again.random(), await again.random()] == first
    with pytest.raises(E_LIMIT) as caught:
        await again.now()
    assert str(caught.value) == str(refused.value)


async def test_a_restart_does_not_warn_again(
    attach: Attach, machine: Machine, limit: Limit
) -> None:
    limit(JournalLimits(max_rows=6))
    system, process = await attach()
    for _ in range(4):
        await system.random()
    await begin_replay(machine, process)
    process.terminal = Terminal()
    again, _ = await attach(again=process)

    for _ in range(4):
        await again.random()
    await again.print("last")

    assert await process.terminal.next_event() == Output(process.pid, "last\n")
