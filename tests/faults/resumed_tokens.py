"""R6: kernels are killed at random tokens of their generations, and others go on; what comes of
that is compared, token for token, with what an undisturbed kernel says.

    python -m tests.faults.resumed_tokens --number 1000

Most kernels live in this process, on a store that is cut off at a token; executor, gate, journal
and driver are the real ones. Now and then the executor dies with the kernel, and some kernels are
OS processes that get `kill -9` (see killed_host). The control forgets chunks and seeds: then tokens
are made twice and texts differ. A run is a generation that was under way when its kernel died.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random

import anyio
import msgspec

from llmos.kernel.chunks import CHUNK_TOKENS
from llmos.kernel.config import Config, load_config
from llmos.kernel.machine import Machine
from llmos.kernel.models import DEMO_FOLDER
from llmos.kernel.process import Process
from llmos.memory.journal import read_output
from llmos.syscalls.generate import Generate, Generation
from tests.faults.killed_host import kill_real_kernels
from tests.faults.token_calls import draw_call
from tests.faults.token_kernels import (
    CutStore,
    Heard,
    Place,
    WatchedDriver,
    call_kernel,
    come_back,
    run_kernel,
)
from tests.kernel.conftest import make_process

BATCH = 24
FLUSH_SHARE = 0.05  # of tokens, as when a chunk has waited for long enough
EXECUTOR_DEATHS = 16  # one in so many kernels takes its executor along
RUNS_PER_REAL_KILL = 100
COUNTS = (
    "num_runs",
    "num_different",
    "num_lost_tokens",
    "num_inexact",
    "num_wrong_outputs",
    "num_errors",
)
Report = Callable[[str], None]
Tokens = dict[Place, list[int]]


def run(
    number: int,
    seed: int = 0,
    *,
    is_weak: bool = False,
    report: Report = lambda line: None,
    has_real_kills: bool = True,
) -> dict[str, float]:
    """Interrupt at least `number` generations; what went wrong, 0 each when all is well.

    `num_different` answers or streams, `num_lost_tokens` that were to be durable and were made
    again, `num_inexact` answers that do not call themselves exact, `num_wrong_outputs` where what
    the person saw has a gap or the output is not the text, `num_errors`.
    """
    return anyio.run(_run, number, Random(seed), is_weak, report, has_real_kills)


async def _run(
    number: int, random: Random, is_weak: bool, report: Report, has_real_kills: bool
) -> dict[str, float]:
    total: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
    started = time.monotonic()
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        models = [str(DEMO_FOLDER)]
        if number > BATCH:
            models.append(_make_tiny_model(scratch))
        drivers = [WatchedDriver(one, log=scratch / "executor.log") for one in models]
        for driver in drivers:
            stack.push_async_callback(driver.end)
        for batch in range(sys.maxsize):
            if total["num_runs"] >= number:
                break
            folder = scratch / f"batch{batch}"
            driver = drivers[batch % len(drivers)]
            is_executor_killed = batch % EXECUTOR_DEATHS == EXECUTOR_DEATHS - 1
            player = _Batch(folder, driver, random, is_weak, is_executor_killed)
            total.update(await player.play())
            rate = total["num_runs"] / (time.monotonic() - started)
            report(f"{dict(total)} {rate:.1f} runs/s")
    if has_real_kills and not is_weak:
        for _ in range(max(1, number // RUNS_PER_REAL_KILL)):
            total.update(await anyio.to_thread.run_sync(kill_real_kernels, random))
            report(f"{dict(total)} with kernels that were OS processes")
    return dict(total)


def _make_tiny_model(folder: Path) -> str:
    """Random weights in float32; its answers end with their last token."""
    from tests.kernel.executor.conftest import save_checkpoint

    return str(save_checkpoint("qwen3", folder / "tiny"))


@dataclass
class _Batch:
    """The same calls of as many processes, undisturbed and interrupted."""

    folder: Path
    driver: WatchedDriver
    random: Random
    is_weak: bool
    is_executor_killed: bool
    processes: list[Process] = field(default_factory=list)
    delivered: dict[Place, int] = field(default_factory=dict)
    were_over: list[bool] = field(default_factory=list)

    async def play(self) -> Counter[str]:
        """Compare; the counts of it."""
        calls = [draw_call(self.random) for _ in range(BATCH)]
        whole, tokens = await self._live_undisturbed(calls)
        before = await self._live_until_killed(calls, tokens)
        return await self._go_on(calls, before, whole, tokens)

    def _make_config(self, name: str) -> Config:
        home = self.folder / name
        home.parent.mkdir(exist_ok=True)
        return load_config({"LLMOS_HOME": str(home), "LLMOS_MODEL": "echo"})

    async def _live_undisturbed(self, calls: list[Generate]) -> tuple[list[Heard], Tokens]:
        async with run_kernel(self._make_config("whole"), self.driver) as machine:
            processes = [await make_process(machine, self.folder) for _ in calls]
            heard = await _call_all(machine, processes, calls)
        return heard, dict(self.driver.tokens)

    async def _live_until_killed(self, calls: list[Generate], tokens: Tokens) -> list[Heard]:
        heard = [Heard() for _ in calls]
        num_until_cut = self.random.randint(1, sum(map(len, tokens.values())))
        async with run_kernel(self._make_config("cut"), self.driver) as machine:
            self.processes = [await make_process(machine, self.folder) for _ in calls]
            is_killed = anyio.Event()

            def count_token() -> None:
                if self.random.random() < FLUSH_SHARE:
                    machine.chunks.flush()
                if sum(map(len, self.driver.tokens.values())) >= num_until_cut:
                    self._cut(machine, heard)
                    is_killed.set()

            self.driver.on_token = count_token
            async with anyio.create_task_group() as tasks:
                for process, call, one in zip(self.processes, calls, heard, strict=True):
                    tasks.start_soon(call_kernel, machine, process, call, one)
                with anyio.fail_after(300):
                    await is_killed.wait()
                tasks.cancel_scope.cancel()
            self.driver.on_token = lambda: None
        return heard

    def _cut(self, machine: Machine, heard: list[Heard]) -> None:
        """The kernel is killed, and maybe the executor."""
        assert isinstance(machine.db, CutStore)
        if machine.db.is_cut:
            return
        machine.db.is_cut = True
        self.delivered = {place: len(some) for place, some in self.driver.tokens.items()}
        self.were_over = [one.is_over for one in heard]
        if self.is_executor_killed and self.driver.process_id:
            os.kill(self.driver.process_id, signal.SIGKILL)

    async def _go_on(
        self, calls: list[Generate], before: list[Heard], whole: list[Heard], tokens: Tokens
    ) -> Counter[str]:
        counts: Counter[str] = Counter()
        async with run_kernel(self._make_config("cut"), self.driver) as machine:
            if self.is_weak:
                await machine.db.write(partial(_execute, sql="DELETE FROM chunk"))
                self.processes = [_forget_seed(process) for process in self.processes]
            again = [await come_back(machine, one.pid, one) for one in self.processes]
            after = await _call_all(machine, again, calls)
            for index, process in enumerate(again):
                if not self.were_over[index]:
                    output = await read_output(machine.db, process.pid)
                    seen = before[index].shown, after[index].shown, output
                    counts.update(_compare(calls[index], after[index], whole[index], seen))
                    counts.update(self._compare_tokens(process.pid, tokens))
        return counts

    def _compare_tokens(self, pid: int, tokens: Tokens) -> dict[str, int]:
        """Tokens that differ, and those that should have been kept and were made again."""
        places = [place for place in tokens if place[0] == pid]
        is_different = any(
            place in self.driver.tokens and self.driver.tokens[place] != tokens[place]
            for place in places
        )
        num_lost = sum(
            max(0, num - CHUNK_TOKENS - self.driver.nums_emitted[place])
            for place, num in self.delivered.items()
            if place[0] == pid and (place in self.driver.tokens or self.is_weak)
        )
        return {"num_different": int(is_different), "num_lost_tokens": num_lost}


async def _call_all(
    machine: Machine, processes: list[Process], calls: list[Generate]
) -> list[Heard]:
    heard = [Heard() for _ in calls]
    async with anyio.create_task_group() as tasks:
        for process, call, one in zip(processes, calls, heard, strict=True):
            tasks.start_soon(call_kernel, machine, process, call, one)
    return heard


def _execute(connection: object, sql: str) -> None:
    connection.exec_driver_sql(sql)  # type: ignore[attr-defined]


def _forget_seed(process: Process) -> Process:
    """The same process with other draws."""
    spec = msgspec.structs.replace(process.spec, salt="another")
    return Process(process.pid, None, process.manifest, spec, process.started_at)


def _describe(answer: Generation) -> tuple[object, ...]:
    """An answer but for what was found in pages, and for log-probabilities' last digits."""
    usage = msgspec.structs.replace(answer.usage, cached_tokens=0)
    choices = [
        (
            one.text,
            one.tool_calls,
            one.finish_reason,
            one.seed,
            [(score.chosen.token, len(score.top)) for score in one.logprobs],
        )
        for one in answer.choices
    ]
    return usage, choices


def _compare(
    call: Generate, after: Heard, whole: Heard, seen: tuple[str, str, str]
) -> dict[str, int]:
    if after.answer is None or whole.answer is None:
        is_same = after.error == whole.error and after.error is not None
        return {"num_runs": 1, "num_errors": int(not is_same)}
    text = whole.answer.text if call.show else ""
    is_same = _describe(after.answer) == _describe(whole.answer)
    is_heard = after.text == (whole.answer.text if call.stream else "")
    shown_before, shown_after, output = seen
    has_gap = not (text.startswith(shown_before) and text.endswith(shown_after))
    has_gap = has_gap or len(shown_before) + len(shown_after) < len(text)
    return {
        "num_runs": 1,
        "num_different": int(not (is_same and is_heard)),
        "num_inexact": int(not after.answer.exact),
        "num_wrong_outputs": int(has_gap or output != text),
    }


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.resumed_tokens")
    parser.add_argument("--number", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weak", action="store_true", help="the control, which must find losses")
    options = parser.parse_args()

    def report(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    print(json.dumps(run(options.number, options.seed, is_weak=options.weak, report=report)))


if __name__ == "__main__":
    main()
