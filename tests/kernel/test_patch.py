"""Patches: a new version of an app replays the journal of an old one.

An app is a function of the System here; a restart gives the process its journal to replay.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from llmos.kernel.admission import admit, give_back
from llmos.kernel.machine import Machine
from llmos.kernel.process import Reach
from llmos.kernel.replay import measure_reach
from llmos.syscalls.client import System
from llmos.syscalls.errors import E_ARG, E_BUSY, E_NONDETERMINISM
from llmos.syscalls.wire import Request

from .conftest import Attach, begin_replay, read_rows

pytestmark = pytest.mark.anyio
App = Callable[[System], Awaitable[Any]]
Restart = Callable[..., Awaitable[list[Any]]]


async def old(sys: System) -> list[float]:
    return [await sys.random(), await sys.random()]


async def new(sys: System) -> list[float | bool]:
    first = await sys.random()
    if await sys.patch("sum"):
        return [True, first, await sys.now()]
    return [False, first, await sys.random()]


@pytest.fixture
async def restart(attach: Attach, machine: Machine) -> Restart:
    """Run one version of an app, then another one on the journal; what each of them returned."""

    async def restart(*versions: App) -> list[Any]:
        system, process = await attach()
        results = [await versions[0](system)]
        for version in versions[1:]:
            await begin_replay(machine, process)
            system, _ = await attach(again=process)
            results.append(await version(system))
        results.append([row.name for row in await read_rows(machine, process)])
        return results

    return restart


async def test_a_new_run_takes_the_new_way_and_says_so_in_its_journal(restart: Restart) -> None:
    first, names = await restart(new)

    assert first[0] is True
    assert names == ["random", "patch", "now"]


async def test_an_old_journal_is_replayed_the_old_way(restart: Restart) -> None:
    first, second, names = await restart(old, new)

    assert second == [False, *first]
    assert names == ["random", "random"]


async def test_without_the_patch_the_old_journal_does_not_fit(restart: Restart) -> None:
    """The control: the new way alone would not pass the old journal."""

    async def unpatched(sys: System) -> None:
        await sys.random()
        await sys.now()

    with pytest.raises(E_NONDETERMINISM, match="0:1 was 'random'"):
        await restart(old, unpatched)


async def test_a_journal_with_the_patch_is_replayed_the_new_way(restart: Restart) -> None:
    first, second, names = await restart(new, new)

    assert first == second
    assert names == ["random", "patch", "now"]


async def test_a_patch_that_was_removed_is_named(restart: Restart) -> None:
    with pytest.raises(E_NONDETERMINISM, match=r"step 0:1 was 'patch' .* came with 'random'"):
        await restart(new, old)


async def test_another_patch_in_the_same_place_was_not_there_before(restart: Restart) -> None:
    async def newer(sys: System) -> list[bool]:
        await sys.random()
        return [await sys.patch("newer"), await sys.patch("sum")]

    _, second, names = await restart(new, newer)

    assert second == [False, True]
    assert names == ["random", "patch", "now"]


async def test_where_the_old_journal_ends_the_new_way_begins(restart: Restart) -> None:
    async def begun(sys: System) -> None:
        await sys.random()

    _, second, third, names = await restart(begun, new, new)

    assert second[0] is True
    assert third == second
    assert names == ["random", "patch", "now"]


async def test_each_call_decides_for_its_own_place(restart: Restart) -> None:
    async def old_rounds(sys: System) -> None:
        for _ in range(2):
            await sys.random()

    async def new_rounds(sys: System) -> list[bool]:
        ways = []
        for _ in range(4):
            ways.append(await sys.patch("rounds"))
            await (sys.now() if ways[-1] else sys.random())
        return ways

    _, second, third, names = await restart(old_rounds, new_rounds, new_rounds)

    assert second == third == [False, False, True, True]
    assert names == ["random", "random", "patch", "now", "patch", "now"]


async def test_a_patch_may_be_asked_for_twice_in_one_place(restart: Restart) -> None:
    async def twice(sys: System) -> list[bool]:
        return [await sys.patch("a"), await sys.patch("a"), await sys.random() < 0]

    first, second, names = await restart(twice, twice)

    assert first == second == [True, True, False]
    assert names == ["patch", "patch", "random"]


async def test_every_strand_decides_by_its_own_journal(restart: Restart) -> None:
    async def old_branches(sys: System) -> None:
        await sys.gather(sys.random(), sys.getpid())

    async def branch(sys: System) -> bool:
        is_new = await sys.patch("branch")
        await (sys.now() if is_new else sys.random())
        return is_new

    async def new_branches(sys: System) -> list[bool]:
        return await sys.gather(branch(sys), branch(sys))

    _, second, third, names = await restart(old_branches, new_branches, new_branches)

    assert second == third == [False, True]
    assert sorted(names) == ["now", "patch", "random"]


async def test_branches_that_were_begun_are_a_past_too(restart: Restart) -> None:
    async def old_branches(sys: System) -> None:
        await sys.gather(sys.random(), sys.random())

    async def before(sys: System) -> bool:
        is_new = await sys.patch("before")
        await sys.gather(sys.random(), sys.random())
        return is_new

    async def after(sys: System) -> bool:
        await sys.gather(sys.random(), sys.random())
        return await sys.patch("after")

    assert (await restart(old_branches, before))[1] is False
    assert (await restart(old_branches, after))[1] is True


async def test_a_place_that_only_calls_without_a_row_passed_is_known_by_the_next_row(
    restart: Restart,
) -> None:
    async def old_way(sys: System) -> None:
        await sys.getpid()
        await sys.random()

    async def new_way(sys: System) -> bool:
        is_new = await sys.patch("first")
        await sys.getpid()
        await sys.random()
        return is_new

    assert (await restart(old_way, new_way))[1] is False


@pytest.mark.parametrize("name", ["", "x" * 201])
async def test_a_name_out_of_bounds_is_refused(attach: Attach, machine: Machine, name: str) -> None:
    system, process = await attach()

    with pytest.raises(E_ARG) as caught:
        await system.patch(name)

    assert caught.value.field == "id"
    assert await read_rows(machine, process) == []
    assert await system.random() < 1


async def test_a_number_that_was_passed_cannot_be_given_back(attach: Attach) -> None:
    _, process = await attach()
    first, second = (Request("0", seq, "patch", msgspec.Raw()) for seq in (0, 1))
    for request in (first, second):
        admit(process, request)

    with pytest.raises(E_BUSY) as caught:
        give_back(process, first)
    give_back(process, second)

    assert caught.value.field == "strand"
    assert process.next_seq == {"0": 1}


async def test_a_number_that_was_given_back_is_taken_by_another_call(attach: Attach) -> None:
    _, process = await attach()
    patch, call = (Request("0", 0, name, msgspec.Raw()) for name in ("patch", "now"))
    admit(process, patch)

    give_back(process, patch)

    assert admit(process, call) is False
    assert process.in_flight["0", 0].request is call


def test_a_strand_goes_as_far_as_its_numbers_and_the_strands_below_it() -> None:
    reach = measure_reach([("0", 0), ("0", 3), ("0.2", 1), ("0.7.1.4", 0), ("-1", 0)])

    assert reach["0"] == Reach(4, 7)
    assert reach["0.2"] == Reach(2, 0)
    assert (reach["0.7"], reach["0.7.1"]) == (Reach(0, 1), Reach(0, 4))
    assert "0.1" not in reach
