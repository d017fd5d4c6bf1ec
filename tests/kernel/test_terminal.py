"""A terminal: events in order, questions with one answer each, and a person who may leave."""

import anyio
import pytest

from llmos.kernel.protocol import Asked, Notice, Output, Started, Withdrawn
from llmos.kernel.terminal import (
    MAX_BUFFERED_CHARS,
    MAX_BUFFERED_EVENTS,
    NOBODY,
    ROOM_CHARS,
    Terminal,
)
from llmos.syscalls.tasks import running

pytestmark = pytest.mark.anyio


async def answer_next(terminal: Terminal, text: str | None) -> Asked:
    """Be the person: read a question and answer it."""
    asked = await terminal.next_event()
    assert isinstance(asked, Asked)
    terminal.answer(asked.ask, text)
    return asked


async def test_events_come_out_in_order() -> None:
    terminal = Terminal()
    for text in ("one", "two"):
        terminal.emit(Notice(text))

    assert await terminal.next_event() == Notice("one")
    assert await terminal.next_event() == Notice("two")


async def test_a_reader_waits_for_the_next_event() -> None:
    terminal = Terminal()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.lowlevel.checkpoint)
        tasks.start_soon(emit_when_read, terminal)
        assert await terminal.next_event() == Notice("late")


async def emit_when_read(terminal: Terminal) -> None:
    await anyio.wait_all_tasks_blocked()
    terminal.emit(Notice("late"))


async def test_what_came_before_the_end_is_still_read() -> None:
    terminal = Terminal()
    terminal.emit(Notice("last"))
    terminal.close()
    terminal.emit(Notice("to nobody"))

    assert await terminal.next_event() == Notice("last")
    assert await terminal.next_event() is None


async def test_a_close_wakes_a_reader() -> None:
    terminal = Terminal()

    async def close() -> None:
        await anyio.wait_all_tasks_blocked()
        terminal.close()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(close)
        assert await terminal.next_event() is None


@pytest.mark.parametrize("text", ["Ada", "", None])
async def test_a_question_gets_its_answer(text: str | None) -> None:
    terminal = Terminal()

    async with running() as tasks:
        tasks.start_soon(answer_next, terminal, text)
        assert await terminal.ask(3, "name?", ("Ada", "Bob")) == text


async def test_a_question_that_was_cut_off_is_not_shown_again_and_its_answer_is_kept() -> None:
    terminal = Terminal()
    async with running() as tasks:
        tasks.start_soon(terminal.ask, 3, "name?", ())
        await anyio.wait_all_tasks_blocked()
    terminal.answer(1, "Ada")

    assert await terminal.ask(3, "name?", ()) == "Ada"
    assert await terminal.next_event() == Asked(1, 3, "name?", ())
    terminal.close()
    assert await terminal.next_event() is None


async def test_another_question_forgets_the_one_that_was_cut_off() -> None:
    terminal = Terminal()
    async with running() as tasks:
        tasks.start_soon(terminal.ask, 3, "name?", ())
        await anyio.wait_all_tasks_blocked()
    terminal.answer(1, "Ada")

    async with running() as tasks:
        tasks.start_soon(answer_next, terminal, None)
        tasks.start_soon(answer_next, terminal, "42")
        assert await terminal.ask(3, "age?", ()) == "42"


async def be_cut_off(terminal: Terminal, pid: int, prompt: str) -> None:
    """Ask, and stop waiting while nobody has answered."""
    async with running() as tasks:
        tasks.start_soon(terminal.ask, pid, prompt, ())
        await anyio.wait_all_tasks_blocked()


async def test_another_question_takes_the_unanswered_one_off_the_screen() -> None:
    terminal = Terminal()

    await be_cut_off(terminal, 3, "name?")
    await be_cut_off(terminal, 3, "age?")

    events = [await terminal.next_event() for _ in range(3)]
    assert events == [Asked(1, 3, "name?", ()), Withdrawn(1), Asked(2, 3, "age?", ())]


async def test_what_a_process_asked_leaves_the_screen_with_it() -> None:
    terminal = Terminal()
    terminal.bring_to_front(2)
    terminal.bring_to_front(3)
    await be_cut_off(terminal, 3, "name?")

    terminal.forget(4)
    terminal.forget(3)
    terminal.close()

    assert terminal.front == 2
    assert [await terminal.next_event() for _ in range(3)] == [
        Asked(1, 3, "name?", ()),
        Withdrawn(1),
        None,
    ]


async def test_a_question_says_who_asks_what() -> None:
    terminal = Terminal()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(terminal.ask, 3, "name?", ("Ada",))
        assert await answer_next(terminal, "Ada") == Asked(1, 3, "name?", ("Ada",))


async def test_answers_find_their_questions_in_any_order() -> None:
    terminal = Terminal()
    answers: dict[str, str | None] = {}

    async def ask(prompt: str) -> None:
        answers[prompt] = await terminal.ask(1, prompt, ())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, "first")
        tasks.start_soon(ask, "second")
        questions = [await terminal.next_event() for _ in range(2)]
        for question in reversed(questions):
            assert isinstance(question, Asked)
            terminal.answer(question.ask, f"to {question.prompt}")

    assert answers == {"first": "to first", "second": "to second"}


async def test_a_question_from_behind_is_shown_when_its_process_comes_to_the_front() -> None:
    terminal, answers = Terminal(), list[str | None]()
    terminal.bring_to_front(1)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask_into, answers, terminal, 2)
        assert await terminal.next_event() == Notice(
            "process 2 waits in the background to ask: name?"
        )
        await anyio.wait_all_tasks_blocked()
        terminal.bring_to_front(2)
        await answer_next(terminal, "Ada")

    assert answers == ["Ada"]


async def ask_into(answers: list[str | None], terminal: Terminal, pid: int) -> None:
    answers.append(await terminal.ask(pid, "name?", ()))


@pytest.mark.parametrize("front", [1, 2])
async def test_a_question_ends_with_the_person_from_behind_too(front: int) -> None:
    terminal, answers = Terminal(), list[str | None]()
    terminal.bring_to_front(front)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask_into, answers, terminal, 2)
        await terminal.next_event()
        terminal.close()

    assert answers == [None]
    assert await terminal.ask(2, "anybody?", ()) is None


def test_who_ends_leaves_the_front_to_the_one_before() -> None:
    terminal = Terminal()
    for pid in (1, 2, 3, 2):
        terminal.bring_to_front(pid)

    fronts = [terminal.front]
    for pid in (2, 9, 3, 1):
        terminal.forget(pid)
        fronts.append(terminal.front)

    assert fronts == [2, 3, 3, 1, None]


async def test_a_second_answer_and_an_unknown_one_change_nothing() -> None:
    terminal = Terminal()
    terminal.answer(99, "to what?")

    async def answer_twice() -> None:
        asked = await answer_next(terminal, "first")
        terminal.answer(asked.ask, "second")

    async with running() as tasks:
        tasks.start_soon(answer_twice)
        assert await terminal.ask(1, "?", ()) == "first"


async def test_a_question_nobody_waits_for_any_more_is_forgotten() -> None:
    terminal = Terminal()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(terminal.ask, 1, "?", ())
        asked = await terminal.next_event()
        tasks.cancel_scope.cancel()

    assert isinstance(asked, Asked)
    terminal.answer(asked.ask, "too late")
    async with running() as tasks:
        tasks.start_soon(answer_next, terminal, "in time")
        assert await terminal.ask(1, "again?", ()) == "in time"


async def test_a_person_who_does_not_read_is_given_up() -> None:
    terminal = Terminal()

    for _ in range(MAX_BUFFERED_EVENTS + 1):
        terminal.emit(Notice("x"))

    assert terminal.closed.is_set()


async def test_nobody_answers_at_once_and_hears_nothing() -> None:
    NOBODY.emit(Notice("hello?"))

    assert await NOBODY.ask(1, "anybody?", ()) is None
    assert await NOBODY.next_event() is None


async def test_a_writer_waits_for_a_person_who_reads_slowly() -> None:
    terminal = Terminal()
    terminal.emit(Output(1, "x" * (ROOM_CHARS + 1)))

    with anyio.move_on_after(0.05) as scope:
        await terminal.wait_for_room()
    assert scope.cancelled_caught

    await terminal.next_event()
    with anyio.fail_after(5):
        await terminal.wait_for_room()


@pytest.mark.parametrize("has_left", [False, True])
async def test_every_writer_goes_on_when_the_person_reads_or_has_left(has_left: bool) -> None:
    terminal, went_on = Terminal(), list[int]()
    terminal.emit(Output(1, "x" * (ROOM_CHARS + 1)))

    async def write(number: int) -> None:
        await terminal.wait_for_room()
        went_on.append(number)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write, 1)
        tasks.start_soon(write, 2)
        await anyio.wait_all_tasks_blocked()
        assert went_on == []
        if has_left:
            terminal.close()
        else:
            await terminal.next_event()

    assert sorted(went_on) == [1, 2]


async def test_a_person_with_too_much_unread_text_is_given_up() -> None:
    terminal = Terminal()

    terminal.emit(Output(1, "x" * (MAX_BUFFERED_CHARS + 1)))

    assert terminal.closed.is_set()


async def test_without_a_person_a_question_waits_and_all_else_is_dropped() -> None:
    terminal, answers = Terminal(is_attended=False), list[str | None]()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask_into, answers, terminal, 2)
        await anyio.wait_all_tasks_blocked()
        terminal.emit(Output(2, "to nobody"))
        terminal.attend(2)
        assert await terminal.next_event() == Started(2)
        await answer_next(terminal, "Ada")

    assert answers == ["Ada"]


async def test_who_comes_sees_first_what_is_in_front() -> None:
    terminal = Terminal(is_attended=False)
    for pid in (1, 2):
        await be_cut_off(terminal, pid, "name?")

    terminal.attend(2)

    events = [await terminal.next_event() for _ in range(3)]
    assert events[0] == Started(2)
    assert isinstance(events[1], Notice)
    assert events[2] == Asked(2, 2, "name?", ())


async def test_an_answer_to_who_sleeps_is_known_to_be_there() -> None:
    terminal = Terminal()
    await be_cut_off(terminal, 3, "name?")
    before = terminal.has_answer(3)

    assert terminal.answer(1, "Ada") == 3

    assert (before, terminal.has_answer(3), terminal.has_answer(4)) == (False, True, False)
    assert terminal.answer(1, "Bob") is None
