"""Suite R5 in short: seeds decide every turn and every fault, and nothing goes wrong."""

import asyncio
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from tests.faults.seeded_loop import Crash, SeededLoop, Stuck
from tests.faults.simulation import play_seed, run
from tests.faults.suite import find_wrong

NUM_CALLS = 120
ROOT = Path(__file__).resolve().parents[2]


def play_turns(seed: int) -> list[str]:
    """The order in which three tasks of three steps have their turns."""
    turns: list[str] = []

    async def step(name: str) -> None:
        for _ in range(3):
            turns.append(name)
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*map(step, "abc"))

    loop = SeededLoop(Random(seed))
    loop.run_until_complete(main())
    loop.close()
    return turns


def test_no_seed_loses_or_repeats_anything() -> None:
    counts = run(6, num_calls=NUM_CALLS)

    assert find_wrong(counts) == {}
    assert counts["num_crashes"] > 0
    assert counts["num_calls"] > 3 * NUM_CALLS


def test_two_planted_bugs_are_found_within_a_few_seeds() -> None:
    counts = run(4, is_weak=True, num_calls=NUM_CALLS)

    assert counts["num_repeated_effects"] > 0
    assert counts["num_lost"] > 0


def test_a_seed_plays_the_same_again() -> None:
    first, again = play_seed(7, NUM_CALLS), play_seed(7, NUM_CALLS)

    assert first.trace == again.trace
    assert first.counts == again.counts
    assert play_seed(8, NUM_CALLS).trace != first.trace


def test_a_seed_plays_the_same_in_another_process() -> None:
    what = f"play_seed(7, {NUM_CALLS}).trace"
    program = f"from tests.faults.simulation import play_seed; print({what})"
    command = [sys.executable, "-c", program]

    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert int(told) == play_seed(7, NUM_CALLS).trace


def test_a_seed_decides_whose_turn_it_is() -> None:
    assert play_turns(1) == play_turns(1)
    assert len({tuple(play_turns(seed)) for seed in range(10)}) > 5


def test_time_jumps_and_nobody_waits() -> None:
    loop = SeededLoop(Random(0))

    loop.run_until_complete(asyncio.sleep(300.0))

    assert loop.time() == 300.0
    loop.close()


def test_a_loop_in_which_nothing_can_happen_says_so() -> None:
    loop = SeededLoop(Random(0))
    never = loop.create_future()

    with pytest.raises(Stuck):
        loop.run_until_complete(never)
    loop.close()


def test_a_crash_stops_the_loop_at_its_turn() -> None:
    loop = SeededLoop(Random(0), crash_at=5)

    async def main() -> None:
        for _ in range(100):
            await asyncio.sleep(0)

    task = loop.create_task(main())
    with pytest.raises(Crash):
        loop.run_until_complete(task)
    assert loop.num_turns == 5
    loop.revive()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()
