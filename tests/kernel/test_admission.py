"""Numbers: what counts up, what comes again, and which strands are over."""

from pathlib import Path

import msgspec
import pytest

from llmos.kernel import admission
from llmos.kernel.admission import admit, join
from llmos.kernel.machine import Machine
from llmos.kernel.process import Process
from llmos.syscalls.errors import E_LIMIT, E_SEQ
from llmos.syscalls.wire import Joined, Request

from .conftest import Attach, make_process

pytestmark = pytest.mark.anyio


@pytest.fixture
async def process(machine: Machine, tmp_path: Path) -> Process:
    return await make_process(machine, tmp_path)


def call(process: Process, strand: str, seq: int = 0) -> bool:
    """Admit a call that is answered at once; whether its number came before."""
    again = admit(process, Request(strand, seq, "now", msgspec.Raw(b"\x80")))
    del process.in_flight[strand, seq]
    return again


async def test_numbers_count_up_and_one_that_comes_again_is_told_apart(process: Process) -> None:
    assert [call(process, "0", seq) for seq in (0, 1, 0, 2)] == [False, False, True, False]


async def test_a_number_too_early_is_not_spent(process: Process) -> None:
    with pytest.raises(E_SEQ, match="call 1 of strand 0 came before 0"):
        call(process, "0", 1)

    assert not call(process, "0", 0)


async def test_a_strand_that_has_ended_is_forgotten_with_all_below_it(process: Process) -> None:
    for strand in ("0", "0.1", "0.1.1", "0.2", "0.3", "0.30"):
        call(process, strand)
    join(process, Joined("0.1", 1))

    join(process, Joined("0", 2))

    assert process.next_seq == {"0": 1, "0.3": 1, "0.30": 1}
    assert process.num_joined == {"0": 2}


@pytest.mark.parametrize("strand", ["0.1", "0.2", "0.2.1", "0.02"])
async def test_a_strand_that_has_ended_stays_shut(process: Process, strand: str) -> None:
    call(process, "0.1")
    call(process, "0.2")

    join(process, Joined("0", 2))

    with pytest.raises(E_SEQ, match="has ended"):
        call(process, strand)
    assert not call(process, "0.3")


async def test_an_end_that_is_told_late_opens_nothing_again(process: Process) -> None:
    call(process, "0.3")
    join(process, Joined("0", 3))
    call(process, "0.4")

    join(process, Joined("0", 2))

    with pytest.raises(E_SEQ, match="has ended"):
        call(process, "0.3")


async def test_the_end_of_strands_that_never_called_costs_nothing(process: Process) -> None:
    for number in range(100):
        join(process, Joined(str(number), 7))

    assert process.num_joined == {}


async def test_open_strands_are_bounded(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_STRANDS", 10)
    for number in range(10):
        call(process, str(number))

    with pytest.raises(E_LIMIT, match="10 strands"):
        call(process, "10")

    assert not call(process, "9", 1)


async def test_gather_after_gather_leaves_as_many_strands_as_one_has(attach: Attach) -> None:
    system, process = await attach()

    async def branch() -> None:
        await system.gather(system.getpid())
        await system.gather(system.getpid())

    for _ in range(20):
        await system.gather(branch(), branch(), branch())

    await system.getpid()
    assert len(process.next_seq) <= 1 + 3 * 3
    assert process.num_joined["0"] == 57
