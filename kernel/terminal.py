"""A terminal: the person at the other end of a process, and who of its processes is in front.

Whoever is in front, or has left the front to its child, may ask. Others wait until they are there.
Events go out in order through a bounded buffer; a terminal that does not read is given up rather
than waited for. Written by handlers (events, questions) and by the control gate (answers, end).

A family of processes that nobody attends has a terminal too: it shows nothing, and what is asked at
it waits until a person comes.
"""

from collections import deque

import anyio

from .protocol import Asked, Logged, Notice, Output, Started, ToTerminal, Withdrawn

MAX_BUFFERED_EVENTS = 65_536
MAX_BUFFERED_CHARS = 8_000_000
ROOM_CHARS = 4_000_000


class Question:
    """A question on the person's screen. `answer` None, once answered: the end of input."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.answered = anyio.Event()
        self.answer: str | None = None
        self.is_cut_off = False


class Terminal:
    """One attached person, or the place for one."""

    def __init__(self, *, is_attended: bool = True) -> None:
        self.is_attended = is_attended
        self._foreground: list[int] = []
        self.closed = anyio.Event()
        self._events: deque[ToTerminal] = deque()
        self._arrived = anyio.Event()
        self._num_chars = 0
        self._read = anyio.Event()
        self._questions: dict[int, Question] = {}
        self._num_asked = 0

    @property
    def front(self) -> int | None:
        """The process that gets Ctrl-C."""
        return self._foreground[-1] if self._foreground else None

    def attend(self, pid: int) -> None:
        """Begin to show what happens, with this process in front, and what it asked before."""
        self.is_attended = True
        self._leave_front(pid)
        self._foreground.append(pid)
        self.emit(Started(pid))
        for question in self._questions.values():
            self._show(question)

    def bring_to_front(self, pid: int) -> None:
        """Give a process the terminal until it ends, and show what it has asked."""
        was_behind = self._is_behind(pid)
        self._leave_front(pid)
        self._foreground.append(pid)
        for question in self._questions.values():
            if was_behind and question.asked.pid == pid:
                self.emit(question.asked)

    def forget(self, pid: int) -> None:
        """The process is gone: who was in front before it is again, and nobody answers it."""
        self._leave_front(pid)
        for number, question in tuple(self._questions.items()):
            if question.asked.pid == pid:
                self._withdraw(number)

    def _leave_front(self, pid: int) -> None:
        if pid in self._foreground:
            self._foreground.remove(pid)

    def _is_behind(self, pid: int) -> bool:
        return bool(self._foreground) and pid not in self._foreground

    def emit(self, event: ToTerminal) -> None:
        """Show an event; nothing happens when there is no person, or none any more."""
        if self.closed.is_set() or not self.is_attended:
            return
        self._events.append(event)
        self._num_chars += count_chars(event)
        self._arrived.set()
        if len(self._events) > MAX_BUFFERED_EVENTS or self._num_chars > MAX_BUFFERED_CHARS:
            self.close()

    async def wait_for_room(self) -> None:
        """Wait until the person has read most of what there is, or is gone."""
        while self._num_chars > ROOM_CHARS and not self.closed.is_set():
            await self._read.wait()

    def _wake_writers(self) -> None:
        self._read.set()
        self._read = anyio.Event()

    async def next_event(self) -> ToTerminal | None:
        """The next event in order, waiting for it; None after the last one."""
        while not self._events:
            if self.closed.is_set():
                return None
            self._arrived = anyio.Event()
            await self._arrived.wait()
        event = self._events.popleft()
        self._num_chars -= count_chars(event)
        self._wake_writers()
        return event

    async def ask(self, pid: int, prompt: str, choices: tuple[str, ...]) -> str | None:
        """Ask the person, who may have yet to come, and wait for the line; None when they are gone.

        A question that was cut off stays on the screen. The process that asks it again, as a replay
        does, gets the answer to the one that is shown.
        """
        if self.closed.is_set():
            return None
        question = self._find_cut_off(pid, prompt, choices)
        if question is None:
            self._num_asked += 1
            question = Question(Asked(self._num_asked, pid, prompt, choices))
            self._questions[self._num_asked] = question
            self._show(question)
        question.is_cut_off = False
        try:
            await question.answered.wait()
        except anyio.get_cancelled_exc_class():
            question.is_cut_off = True
            raise
        self._questions.pop(question.asked.ask, None)
        return question.answer

    def _show(self, question: Question) -> None:
        """Put a question to the person, or tell who waits to ask it."""
        asked = question.asked
        if self._is_behind(asked.pid):
            text = f"process {asked.pid} waits in the background to ask: {asked.prompt.strip()}"
            self.emit(Notice(text))
        else:
            self.emit(asked)

    def has_answer(self, pid: int) -> bool:
        """Whether a question of this process that was cut off has its answer."""
        return any(
            question.asked.pid == pid and question.is_cut_off and question.answered.is_set()
            for question in self._questions.values()
        )

    def _find_cut_off(self, pid: int, prompt: str, choices: tuple[str, ...]) -> Question | None:
        """The question if it is shown and nobody waits for its answer; another one is forgotten."""
        for number, question in tuple(self._questions.items()):
            if question.asked.pid == pid and question.is_cut_off:
                if (question.asked.prompt, question.asked.choices) == (prompt, choices):
                    return question
                self._withdraw(number)
        return None

    def _withdraw(self, number: int) -> None:
        if not self._questions.pop(number).answered.is_set():
            self.emit(Withdrawn(number))

    def answer(self, number: int, text: str | None) -> int | None:
        """Hand the person's line to whoever asked, whose pid is returned.

        An unknown number is an answer too late, and nobody's.
        """
        question = self._questions.get(number)
        if question is None or question.answered.is_set():
            return None
        question.answer = text
        question.answered.set()
        return question.asked.pid

    def close(self) -> None:
        """The person is gone: questions end, events go nowhere."""
        self.closed.set()
        self._arrived.set()
        self._wake_writers()
        for question in self._questions.values():
            question.answered.set()


def count_chars(event: ToTerminal) -> int:
    """What an event weighs in the buffer: the text that a process chooses the size of."""
    return len(event.text) if isinstance(event, Output | Logged) else 0


def _closed_terminal() -> Terminal:
    terminal = Terminal()
    terminal.close()
    return terminal


NOBODY = _closed_terminal()
"""The terminal of a process that runs without a person: questions end at once."""
