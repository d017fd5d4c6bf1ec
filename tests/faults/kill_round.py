"""One state directory of the suite R1: kernels live and die on it, then the store is judged.

`python -m tests.faults.kill_round FOLDER --kills N --seed S [--executor-kills N] [--weak]` prints
counts as one JSON line. A program of its own, since it forks its kernels: they come up without
importing anything.
"""

import argparse
import json
import multiprocessing
import os
import select
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

import anyio

from llmos.memory.db import Database
from tests.faults.evidence import ACK_BYTES, Evidence, count_bytes, judge, read_lines
from tests.faults.kill_host import Life, read_config, run_life

READY_SECONDS = 60.0
LAST_SECONDS = 120.0
EARLY_SHARE = 0.2
EARLY_SECONDS = 0.4
MAX_LIFE_SECONDS = 5.0
MAX_ANSWERS_A_LIFE = 300
LOOK_SECONDS = 0.002
KINDS = ("kernel", "app", "zygote", "executor")
forking = multiprocessing.get_context("fork")


class Round:
    """Lives of kernels, one after the other."""

    def __init__(self, folder: Path, seed: int, *, is_weak: bool) -> None:
        self._folder = folder
        self._random = Random(seed)
        self._seed = seed
        self._is_weak = is_weak
        self._num_lives = 0
        self._num_early_ends = 0
        self.complaints: list[str] = []

    def play(self, num_kills: int, num_executor_kills: int) -> dict[str, float]:
        """Kill until it was often enough, let everything end, and judge."""
        while sum(self._count_kills().values()) < num_kills:
            self._live_and_die()
        num_left = self._live_to_the_end(num_executor_kills)
        counts, complaints = anyio.run(self._judge)
        self.complaints += complaints
        kills = self._count_kills()
        counts["num_unended"] += num_left
        counts["num_unexpected"] += self._num_early_ends
        return {
            "num_kills": kills.total(),
            **{f"num_{kind}_kills": kills[kind] for kind in KINDS},
            **counts,
        }

    def _count_kills(self) -> Counter[str]:
        return Counter(line.decode() for line in read_lines(self._folder / "kills"))

    def _start(self, **options: object) -> tuple[multiprocessing.process.BaseProcess, int]:
        """Fork a kernel; the descriptor becomes readable when it is up, or gone."""
        self._num_lives += 1
        life = Life(
            str(self._folder),
            self._seed * 100_000 + self._num_lives,
            is_weak=self._is_weak,
            **options,  # type: ignore[arg-type]
        )
        read_end, write_end = os.pipe()
        kernel = forking.Process(target=run_life, args=(life, write_end))
        kernel.start()
        os.close(write_end)
        return kernel, read_end

    def _live_and_die(self) -> None:
        """One life, cut off at a random moment; some before the kernel is up."""
        kernel, ready = self._start()
        if self._random.random() > EARLY_SHARE:
            select.select([ready], [], [], READY_SECONDS)
            self._wait_answers(self._random.randrange(MAX_ANSWERS_A_LIFE))
        else:
            time.sleep(self._random.uniform(0.0, EARLY_SECONDS))
        os.close(ready)
        if not kernel.is_alive():
            self._num_early_ends += 1
            self.complaints.append(f"num_unexpected: a kernel ended with {kernel.exitcode}")
        kernel.kill()
        kernel.join()
        with (self._folder / "kills").open("a") as kills:
            kills.write("kernel\n")

    def _wait_answers(self, number: int) -> None:
        """Wait until players have had about so many answers more, but not for long."""
        acks = Evidence(self._folder).acks
        enough_bytes = count_bytes(acks) + number * ACK_BYTES
        latest = time.monotonic() + MAX_LIFE_SECONDS
        while count_bytes(acks) < enough_bytes and time.monotonic() < latest:
            time.sleep(LOOK_SECONDS)

    def _live_to_the_end(self, num_executor_kills: int) -> int:
        """A life that nobody cuts off; 1 if it does not end by itself, as it should, else 0."""
        kernel, ready = self._start(is_last=True, num_executor_kills=num_executor_kills)
        os.close(ready)
        kernel.join(LAST_SECONDS)
        if kernel.exitcode == 0:
            return 0
        self.complaints.append(f"num_unended: the last kernel ended with {kernel.exitcode}")
        kernel.kill()
        kernel.join()
        return 1

    async def _judge(self) -> tuple[dict[str, float], list[str]]:
        db = Database.open(read_config(self._folder).database)
        try:
            return await judge(db, Evidence(self._folder))
        finally:
            await db.aclose()


def main() -> None:
    """Play one round and print its counts; complaints in words go to stderr."""
    parser = argparse.ArgumentParser(prog="tests.faults.kill_round")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, required=True)
    parser.add_argument("--executor-kills", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weak", action="store_true", help="kernels find no journal")
    options = parser.parse_args()
    played = Round(options.folder.absolute(), options.seed, is_weak=options.weak)
    counts = played.play(options.kills, options.executor_kills)
    print(*played.complaints, sep="\n", end="\n" if played.complaints else "", file=sys.stderr)
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
