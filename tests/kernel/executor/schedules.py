"""Random schedules on an engine over three tiers: whatever happens, every answer is the right one.

A schedule is a list of rules: requests arrive, alone or as branches of one prompt or in the middle
of an answer; they are cancelled, paused and resumed; others take all pages; owners wait; the engine
is closed and another one goes on with the same folder and the tokens that were given out, as the
kernel has it do. After each rule the pages' invariants hold, and what was given out so far is the
beginning of the answer.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import closing
from pathlib import Path

import msgspec
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from llmos.kernel.executor.engine import Engine
from llmos.kernel.executor.pagefile import find_page_files
from llmos.kernel.executor.protocol import Done, Failed, Generate, Hint, Output, Token

from .answers import Answers, Tokens

FOX, CAT = "Tell me a story about the fox. " * 3, "What does the cat say? " * 5
PROMPTS = [FOX, FOX + "Now!", FOX + "And then? " * 4, CAT, CAT + "Why?", "Hi"]
NUM_NEW = 24
SEEDS = st.sampled_from([0, 0, 1, 2])  # 0 is greedy
PROMPT = st.integers(0, len(PROMPTS) - 1)
OWNERS = st.integers(1, 3)
ASKED = st.tuples(PROMPT, SEEDS, st.sampled_from([1, 9, NUM_NEW]), OWNERS)
CHOICES = st.integers(0, 20)
STEPS = st.sampled_from([0, 1, 3, 12])
MAX_FOLDER_BYTES = 400_000
Break = Callable[[Engine], None]


class Schedule(RuleBasedStateMachine):
    """Generations on engines that follow each other."""

    answers: Answers
    tally: Counter[str]
    plant: Break | None = None  # a fault, planted before each step; then nobody checks the pages

    def __init__(self) -> None:
        super().__init__()
        self.scratch = tempfile.TemporaryDirectory()
        self.requests: dict[int, Generate] = {}
        self.wanted: dict[int, Tokens] = {}
        self.emitted: dict[int, Tokens] = {}
        self.paused: set[int] = set()
        self.number = 0

    @initialize(
        num_pages=st.sampled_from([12, 14, 20, 40]),
        num_host_pages=st.sampled_from([0, 0, 4, 30]),
        max_step_tokens=st.sampled_from([23, 48, 512]),
        disk=st.sampled_from([True, True, False]),
    )
    def begin(self, num_pages: int, num_host_pages: int, max_step_tokens: int, disk: bool) -> None:
        folder = self.scratch.name if disk else None
        self.spec = msgspec.structs.replace(
            self.answers.spec, page_folder=folder, max_page_folder_bytes=MAX_FOLDER_BYTES
        )
        self.sizes = (num_pages, num_host_pages, max_step_tokens)
        self.start()

    def start(self) -> None:
        num_pages, num_host_pages, max_step_tokens = self.sizes
        self.engine = Engine(
            self.spec,
            model=self.answers.model,
            num_pages=num_pages,
            num_host_pages=num_host_pages,
            max_step_tokens=max_step_tokens,
        )

    def close(self) -> None:
        stats = self.engine.collect_stats()
        self.tally["steps"] += stats.num_steps
        self.tally["preemptions"] += stats.num_preemptions
        for tier, num_hits in stats.num_page_hits.items():
            self.tally[f"pages found: {tier}"] += num_hits
        self.engine.close()

    @rule(asked=st.lists(ASKED, min_size=1, max_size=4), num_steps=STEPS)
    def submit(self, asked: list[tuple[int, int, int, int]], num_steps: int) -> None:
        for one in asked:
            self.ask(*one)
        self.step(num_steps)

    @rule(prompt=PROMPT, seeds=st.lists(SEEDS, min_size=2, max_size=4), num_steps=STEPS)
    def fork(self, prompt: int, seeds: list[int], num_steps: int) -> None:
        """Branches of one prompt."""
        self.tally["forks"] += 1
        for seed in seeds:
            self.ask(prompt, seed, NUM_NEW, 1)
        self.step(num_steps)

    @rule(prompt=PROMPT, seed=SEEDS, num_emitted=st.integers(1, NUM_NEW - 1), num_steps=STEPS)
    def go_on(self, prompt: int, seed: int, num_emitted: int, num_steps: int) -> None:
        """An answer that another engine began."""
        begun = self.answers.find(prompt, seed)[:-1][:num_emitted]
        self.tally["generations continued"] += 1
        self.ask(prompt, seed, NUM_NEW, 2, begun)
        self.step(num_steps)

    def ask(self, prompt: int, seed: int, num_new: int, owner: int, emitted: Tokens = ()) -> None:
        self.number += 1
        self.tally["requests"] += 1
        request = self.answers.ask(
            prompt, seed, num_new, id=self.number, owner=owner, emitted=emitted
        )
        self.requests[self.number] = request
        self.wanted[self.number] = self.answers.find(prompt, seed)[:num_new]
        self.emitted[self.number] = emitted
        self.engine.submit(request)

    @rule(num_steps=STEPS)
    def step(self, num_steps: int) -> None:
        for _ in range(num_steps):
            self.step_once()

    def step_once(self) -> None:
        if self.plant:
            self.plant(self.engine)
        for output in self.engine.step():
            self.check(output)

    def check(self, output: Output) -> None:
        wanted = self.wanted[output.id]
        if isinstance(output, Token):
            self.emitted[output.id] += output.tokens
            assert self.emitted[output.id] == wanted[: output.num_tokens]
        elif isinstance(output, Done):
            assert output.tokens == wanted
            self.tally["answers"] += 1
            self.tally["tokens compared"] += len(wanted)
            self.forget(output.id)
        else:
            assert isinstance(output, Failed)
            assert output.error.code == "E_CANCELLED"

    def forget(self, number: int) -> None:
        del self.requests[number]
        self.paused.discard(number)

    def choose(self, numbers: Collection[int], choice: int) -> list[int]:
        """One of the numbers, if there is any. What is left depends on the disk's speed, so that
        no rule may: a history must be the same when it is run again."""
        return [sorted(numbers)[choice % len(numbers)]] if numbers else []

    @rule(choice=CHOICES)
    def cancel(self, choice: int) -> None:
        for number in self.choose(self.requests, choice):
            self.tally["cancels"] += 1
            self.engine.cancel(number)
            self.forget(number)

    @rule(choice=CHOICES)
    def pause(self, choice: int) -> None:
        for number in self.choose(self.requests, choice):
            self.tally["pauses"] += 1
            self.engine.pause(number)
            self.paused.add(number)

    @rule(choice=CHOICES)
    def resume(self, choice: int) -> None:
        for number in self.choose(self.paused, choice):
            self.engine.resume(number)
            self.paused.discard(number)

    @rule(
        owner=OWNERS,
        kind=st.sampled_from(["tool", "person", "gone"]),
        seconds=st.sampled_from([None, 0.0, 600.0]),
        num_rests=st.integers(0, 4),
    )
    def wait(self, owner: int, kind: str, seconds: float | None, num_rests: int) -> None:
        self.engine.hint(Hint(owner, kind, seconds))  # type: ignore[arg-type]
        for _ in range(num_rests):
            self.engine.rest()

    @rule(num_steps=STEPS, is_settled=st.booleans())
    def evict(self, num_steps: int, is_settled: bool) -> None:
        """Somebody takes all the room that is to be had for a moment."""
        pool = self.engine._scheduler.pool
        pool.release(pool.allocate(pool.num_available))
        if is_settled:
            self.settle()
        self.ask(0, 0, 9, 1)
        self.step(num_steps)

    def settle(self) -> None:
        """The disk comes to rest: what is indexed is there, and nothing else."""
        disk = self.engine._swap.disk
        if disk is not None:
            for _ in range(2):
                assert disk.drain()
                self.engine._swap.collect()
            found = {name for name, _ in find_page_files(Path(self.scratch.name))}
            assert found == set(disk._sizes)

    @rule(is_sudden=st.booleans(), num_steps=STEPS)
    def restart(self, is_sudden: bool, num_steps: int) -> None:
        self.tally["restarts"] += 1
        if not is_sudden:
            self.settle()
        self.close()
        self.start()
        for number, request in self.requests.items():
            self.engine.submit(msgspec.structs.replace(request, emitted=self.emitted[number]))
            if number in self.paused:
                self.engine.pause(number)
        self.step(num_steps)

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "engine") and not self.plant:
            self.engine.check_integrity()

    def teardown(self) -> None:
        """Whoever is left comes to its end."""
        with self.scratch:
            if hasattr(self, "engine"):
                self.finish()
                self.tally["schedules"] += 1

    def finish(self) -> None:
        with closing(self):
            for number in tuple(self.paused):
                self.engine.resume(number)
            for _ in range(4000):
                if not self.engine.has_work:
                    break
                self.step_once()
            assert not self.requests


def run_schedules(
    answers: Answers, num_schedules: int, *, plant: Break | None = None
) -> Counter[str]:
    """Play so many random schedules; what happened in them. Raises AssertionError at the first
    wrong answer, having looked for a shorter schedule with one unless the fault is planted."""
    tally: Counter[str] = Counter()
    fields = {"answers": answers, "tally": tally, "plant": plant and staticmethod(plant)}
    run_state_machine_as_test(
        type("Schedule", (Schedule,), fields),
        settings=settings(
            max_examples=num_schedules,
            stateful_step_count=12,
            deadline=None,
            database=None,
            derandomize=plant is not None,
            phases=[Phase.generate] if plant else [Phase.generate, Phase.shrink],
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
    return tally
