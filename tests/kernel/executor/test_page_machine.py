"""Random histories of an engine over three tiers: every answer is that of an undisturbed one.

After each rule the pages' invariants hold. An engine may be started again at any time on the same
folder; its generations go on from their tokens, as the kernel has them go on.
"""

import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
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
from llmos.kernel.executor.protocol import Done, Failed, Generate, Hint, Load, Output, Token
from llmos.syscalls.types import Message, Sampling

FOX, CAT = "Tell me a story about the fox. " * 3, "What does the cat say? " * 5
PROMPTS = [FOX, FOX + "Now!", FOX + "And then? " * 6, CAT, CAT + "Why?", "Hi"]
NUM_NEW = [1, 9, 40]
KINDS = st.sampled_from(["tool", "person", "gone"])
OWNERS = st.integers(1, 3)
ASKED = st.tuples(st.integers(0, len(PROMPTS) - 1), st.sampled_from(NUM_NEW), OWNERS)
CHOICES = st.integers(0, 20)
STEPS = st.sampled_from([0, 1, 3, 12, 40])
FILE_BYTES = 16 * 4 * 2 * 2 * 24 * 4 + 56
Case = tuple[int, int]


class PageMachine(RuleBasedStateMachine):
    """Generations on engines that follow each other; `folder` and `answers` are set before."""

    folder: Path
    answers: dict[Case, tuple[int, ...]]

    def __init__(self) -> None:
        super().__init__()
        self.scratch = tempfile.TemporaryDirectory()
        self.requests: dict[int, Generate] = {}
        self.cases: dict[int, Case] = {}
        self.emitted: dict[int, tuple[int, ...]] = {}
        self.paused: set[int] = set()
        self.number = 0

    @initialize(
        num_pages=st.sampled_from([14, 17, 24, 40]),
        num_host_pages=st.sampled_from([0, 0, 4, 30]),
        disk=st.sampled_from([True, True, False]),
    )
    def begin(self, num_pages: int, num_host_pages: int, disk: bool) -> None:
        folder = self.scratch.name if disk else None
        self.spec = Load(
            str(self.folder), page_folder=folder, max_page_folder_bytes=24 * FILE_BYTES
        )
        self.sizes = (num_pages, num_host_pages)
        self.start()

    def start(self) -> None:
        num_pages, num_host_pages = self.sizes
        self.engine = Engine(
            self.spec, num_pages=num_pages, num_host_pages=num_host_pages, max_step_tokens=48
        )

    @rule(asked=st.lists(ASKED, min_size=1, max_size=6), num_steps=STEPS)
    def submit(self, asked: list[tuple[int, int, int]], num_steps: int) -> None:
        for one in asked:
            self.ask(*one)
        self.step(num_steps)

    def ask(self, prompt: int, num_new: int, owner: int) -> None:
        self.number += 1
        sampling = Sampling(max_tokens=num_new, temperature=0.0)
        messages = (Message("user", PROMPTS[prompt]),)
        request = Generate(self.number, messages, sampling=sampling, owner=owner)
        self.requests[self.number], self.cases[self.number] = request, (prompt, num_new)
        self.emitted[self.number] = ()
        self.engine.submit(request)

    @rule(num_steps=STEPS)
    def step(self, num_steps: int) -> None:
        for _ in range(num_steps):
            for output in self.engine.step():
                self.check(output)

    def check(self, output: Output) -> None:
        if isinstance(output, Token):
            self.emitted[output.id] += output.tokens
        elif isinstance(output, Done):
            assert output.tokens == self.answers[self.cases[output.id]]
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
            self.engine.cancel(number)
            self.forget(number)

    @rule(choice=CHOICES)
    def pause(self, choice: int) -> None:
        for number in self.choose(self.requests, choice):
            self.engine.pause(number)
            self.paused.add(number)

    @rule(choice=CHOICES)
    def resume(self, choice: int) -> None:
        for number in self.choose(self.paused, choice):
            self.engine.resume(number)
            self.paused.discard(number)

    @rule(owner=OWNERS, kind=KINDS, seconds=st.sampled_from([None, 0.0, 600.0]))
    def hint(self, owner: int, kind: str, seconds: float | None) -> None:
        self.engine.hint(Hint(owner, kind, seconds))  # type: ignore[arg-type]

    @rule(num_rests=st.integers(1, 4))
    def rest(self, num_rests: int) -> None:
        for _ in range(num_rests):
            self.engine.rest()

    @rule(num_steps=STEPS, is_settled=st.booleans())
    def evict(self, num_steps: int, is_settled: bool) -> None:
        """Somebody takes all the room that is to be had for a moment."""
        pool = self.engine._scheduler.pool
        pool.release(pool.allocate(pool.num_available))
        if is_settled:
            self.settle()
        self.ask(0, 9, 1)
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
        if not is_sudden:
            self.settle()
        self.engine.close()
        self.start()
        for number, request in self.requests.items():
            emitted = self.emitted[number]
            again = Generate(
                number,
                request.messages,
                sampling=request.sampling,
                emitted=emitted,
                owner=request.owner,
            )
            self.engine.submit(again)
            if number in self.paused:
                self.engine.pause(number)
        self.step(num_steps)

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "engine"):
            self.engine.check_integrity()

    def teardown(self) -> None:
        """Whoever is left comes to its end."""
        if hasattr(self, "engine"):
            for number in tuple(self.paused):
                self.engine.resume(number)
            for _ in range(4000):
                if not self.engine.has_work:
                    break
                for output in self.engine.step():
                    self.check(output)
            assert not self.requests
            self.engine.close()
        self.scratch.cleanup()


@pytest.fixture(scope="module")
def answers(make_checkpoint: Callable[[str], Path]) -> dict[Case, tuple[int, ...]]:
    """What an engine with room for everything says, each prompt alone."""
    found = {}
    for prompt, text in enumerate(PROMPTS):
        for num_new in NUM_NEW:
            engine = Engine(Load(str(make_checkpoint("qwen3"))), num_pages=64)
            sampling = Sampling(max_tokens=num_new, temperature=0.0)
            engine.submit(Generate(1, (Message("user", text),), sampling=sampling))
            while engine.has_work:
                for output in engine.step():
                    if isinstance(output, Done):
                        found[prompt, num_new] = output.tokens
    return found


@pytest.mark.slow
def test_no_history_changes_an_answer_or_loses_a_page(
    qwen3: Path, answers: dict[Case, tuple[int, ...]]
) -> None:
    PageMachine.folder, PageMachine.answers = qwen3, answers

    run_state_machine_as_test(
        PageMachine,
        settings=settings(
            max_examples=25,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
