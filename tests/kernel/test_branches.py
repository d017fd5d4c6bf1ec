"""Started branches over a kernel: their rows, and a replay whoever is first."""

from pathlib import Path

import anyio
import pytest

from llmos.kernel.machine import Machine
from llmos.syscalls.client import System
from llmos.syscalls.errors import E_CANCELLED

from .conftest import Attach, begin_replay, make_process, read_rows, run_twice

pytestmark = pytest.mark.anyio


async def draw(sys: System, num_calls: int) -> list[float]:
    return [await sys.random() for _ in range(num_calls)]


async def test_a_replay_gives_every_branch_what_it_had_whoever_is_first(
    attach: Attach, machine: Machine
) -> None:
    async def main(sys: System, sizes: tuple[int, int]) -> list[list[float]]:
        late, early = (sys.start(draw(sys, size)) for size in sizes)
        return [await draw(sys, 2), (await late)[:1], (await early)[:1]]

    system, process = await attach()
    first = await main(system, (5, 1))
    await begin_replay(machine, process)
    again, _ = await attach(again=process)

    assert await main(again, (1, 5)) == first
    strands = {row.strand for row in await read_rows(machine, process)}
    assert strands == {"0", "0.1", "0.2"}


async def test_a_branch_that_was_cancelled_ends_where_it_did_in_a_replay(
    machine: Machine, tmp_path: Path
) -> None:
    async def main(sys: System) -> str:
        branch = sys.start(sys.sleep(1000.0))
        await sys.random()
        branch.cancel()
        with pytest.raises(E_CANCELLED) as caught:
            await branch
        await sys.random()
        return caught.value.code

    process = await make_process(machine, tmp_path)

    with anyio.fail_after(20):
        first, second = await run_twice(machine, process, main)

    assert first == second == "E_CANCELLED"
    states = [row.state for row in await read_rows(machine, process)]
    assert sorted(states) == ["CANCELLED", "DONE", "DONE"]


async def test_a_timeout_of_the_apps_own_comes_again_in_a_replay(
    machine: Machine, tmp_path: Path
) -> None:
    async def main(sys: System) -> tuple[bool, float]:
        with anyio.move_on_after(0.05) as scope:
            await sys.sleep(1000.0)
        return scope.cancelled_caught, await sys.random()

    process = await make_process(machine, tmp_path)

    first, second = await run_twice(machine, process, main)

    assert first == second
    assert first[0]
    assert [row.state for row in await read_rows(machine, process)] == ["CANCELLED", "DONE"]


async def test_the_loser_of_a_race_loses_again(machine: Machine, tmp_path: Path) -> None:
    async def main(sys: System) -> list[str]:
        done: list[str] = []

        async def run(name: str, seconds: float, scope: anyio.CancelScope) -> None:
            await sys.sleep(seconds)
            done.append(name)
            scope.cancel()

        with anyio.CancelScope() as scope:
            await sys.gather(run("slow", 1000.0, scope), run("fast", 0.0, scope))
        return done

    process = await make_process(machine, tmp_path)

    with anyio.fail_after(20):
        first, second = await run_twice(machine, process, main)

    assert first == second == ["fast"]
