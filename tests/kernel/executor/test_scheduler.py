"""Who runs next, and who gives up pages, without a model."""

from hypothesis import given
from hypothesis import strategies as st

from llmos.kernel.executor.batch import Work
from llmos.kernel.executor.pages import PagePool
from llmos.kernel.executor.scheduler import Scheduler
from llmos.kernel.executor.sequence import ResolvedSampling, Sequence

PAGE_SIZE = 4
SIZES = st.lists(
    st.tuples(st.integers(1, 30), st.integers(1, 20), st.integers(0, 3)), min_size=1, max_size=8
)


def make_scheduler(num_pages: int, *, budget: int = 16, max_running: int = 8) -> Scheduler:
    return Scheduler(
        PagePool(num_pages), page_size=PAGE_SIZE, max_running=max_running, max_step_tokens=budget
    )


def make_sequence(number: int, num_tokens: int, *, first: int = 0) -> Sequence:
    tokens = list(range(first, first + num_tokens))
    return Sequence(number, tokens, ResolvedSampling(max_tokens=100), b"root")


def step(scheduler: Scheduler) -> list[Work]:
    """Plan, compute nothing, and sample a 7 where a token is due."""
    works = scheduler.plan()
    lasts = [work.sequence for work in works if work.is_last]
    for work in works:
        scheduler.mark_computed(work)
    for sequence in lasts:
        sequence.tokens.append(7)
    scheduler.check_integrity()
    return works


def test_a_long_prompt_is_cut_to_the_budget() -> None:
    scheduler = make_scheduler(16)
    scheduler.add(make_sequence(1, 40))

    counts = [step(scheduler)[0].num_tokens for _ in range(4)]

    assert counts == [16, 16, 8, 1]


def test_decodes_come_before_the_chunks_of_a_long_prompt() -> None:
    scheduler = make_scheduler(32)
    scheduler.add(make_sequence(1, 4))
    step(scheduler)
    scheduler.add(make_sequence(2, 40, first=100))

    works = step(scheduler)

    assert [(work.sequence.id, work.num_tokens) for work in works] == [(1, 1), (2, 15)]


def test_an_equal_prefix_is_waited_for_and_then_shared() -> None:
    scheduler = make_scheduler(32, budget=64)
    scheduler.add(make_sequence(1, 20))
    scheduler.add(make_sequence(2, 20))

    first, second = step(scheduler), step(scheduler)

    assert [work.sequence.id for work in first] == [1]
    assert second[1].sequence.num_cached == 16


def test_the_newest_is_preempted_and_finds_its_pages_again() -> None:
    scheduler = make_scheduler(5, budget=64)
    old, new = make_sequence(1, 8), make_sequence(2, 7, first=50)
    scheduler.add(old)
    scheduler.add(new)

    while not scheduler.num_preemptions:
        step(scheduler)
    scheduler.remove(old)
    step(scheduler)

    assert list(scheduler.running) == [new]
    assert new.num_computed == len(new.tokens) - 1


def test_a_paused_sequence_frees_its_place_and_comes_back_first() -> None:
    scheduler = make_scheduler(16, max_running=1)
    first, second = make_sequence(1, 4), make_sequence(2, 4, first=50)
    scheduler.add(first)
    step(scheduler)
    scheduler.add(second)

    scheduler.pause(first)
    while_paused = [work.sequence for work in step(scheduler)]
    scheduler.resume(first)
    scheduler.remove(second)

    assert while_paused == [second]
    assert [work.sequence for work in step(scheduler)] == [first]


def test_narrow_steps_preempt_the_newest_and_widen_by_doubling() -> None:
    scheduler = make_scheduler(32)
    sequences = [make_sequence(number, 4, first=number * 50) for number in range(4)]
    for sequence in sequences:
        scheduler.add(sequence)
    step(scheduler)

    scheduler.narrow(2)
    narrow = [work.sequence for work in step(scheduler)]
    scheduler.widen()
    wider = [work.sequence for work in step(scheduler)]

    assert narrow == sequences[:2]
    assert list(scheduler.running) == wider == sequences
    assert scheduler.max_step_tokens == 4
    scheduler.widen(at_once=True)
    assert (scheduler.max_running, scheduler.max_step_tokens) == (8, 16)


def test_a_pool_that_shrinks_preempts_whoever_has_a_page_too_high() -> None:
    scheduler = make_scheduler(16, budget=64)
    old, new = make_sequence(1, 20), make_sequence(2, 20, first=50)
    scheduler.add(old)
    scheduler.add(new)
    step(scheduler)
    evicted: list[int] = []
    scheduler.pool.on_evict = lambda page, content: evicted.append(page)

    scheduler.shrink(7)

    assert (scheduler.pool.num_pages, scheduler.num_preemptions) == (7, 1)
    assert scheduler.running == [old]
    assert sorted(evicted) == [7, 8, 9]
    scheduler.check_integrity()
    while scheduler.waiting:
        for work in step(scheduler):
            if len(work.sequence.tokens) >= 23:
                scheduler.remove(work.sequence)
    assert new.num_computed >= 20


@given(SIZES, st.integers(14, 40), st.integers(1, 32))
def test_every_sequence_ends_whatever_the_room(
    sizes: list[tuple[int, int, int]], num_pages: int, budget: int
) -> None:
    scheduler = make_scheduler(num_pages, budget=budget)
    goals = {}
    for number, (num_prompt, num_new, first) in enumerate(sizes):
        sequence = make_sequence(number, num_prompt, first=first * 100)
        goals[number] = num_prompt + num_new
        scheduler.add(sequence)

    for _ in range(10_000):
        for work in step(scheduler):
            if len(work.sequence.tokens) >= goals[work.sequence.id]:
                scheduler.remove(work.sequence)
        if not scheduler.has_work:
            break

    assert not scheduler.has_work
    scheduler.check_integrity()
