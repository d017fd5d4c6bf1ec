"""A terminal: the person at the other end of a process, and who of its processes is in front.

Events go out in order through a bounded buffer; a terminal that does not read is given up rather
than waited for. Written by handlers (events, questions) and by the control gate (answers, end).
"""

from collections import deque

import anyio

from .protocol import Asked, Logged, Output, ToTerminal

MAX_BUFFERED_EVENTS = 65_536
MAX_BUFFERED_CHARS = 8_000_000
ROOM_CHARS = 4_000_000


class Terminal:
    """One attached person. `foreground` is a stack of pids; the last one gets Ctrl-C."""

    def __init__(self) -> None:
        self.foreground: list[int] = []
        self.closed = anyio.Event()
        self._events: deque[ToTerminal] = deque()
        self._arrived = anyio.Event()
        self._num_chars = 0
        self._read = anyio.Event()
        self._answers: dict[int, tuple[anyio.Event, list[str | None]]] = {}
        self._num_asked = 0

    def emit(self, event: ToTerminal) -> None:
        """Show an event; nothing happens when the person is gone."""
        if self.closed.is_set():
            return
        self._events.append(event)
        self._num_chars += count_chars(event)
        self._arrived.set()
        if len(self._events) > MAX_BUFFERED_EVENTS or self._num_chars > MAX_BUFFERED_CHARS:
            self.close()

    async def wait_for_room(self) -> None:
        """Wait until the person has read most of what there is, or is gone."""
        while self._num_chars > ROOM_CHARS and not self.closed.is_set():
            self._read = anyio.Event()
            await self._read.wait()

    async def next_event(self) -> ToTerminal | None:
        """The next event in order, waiting for it; None after the last one."""
        while not self._events:
            if self.closed.is_set():
                return None
            self._arrived = anyio.Event()
            await self._arrived.wait()
        event = self._events.popleft()
        self._num_chars -= count_chars(event)
        self._read.set()
        return event

    async def ask(self, pid: int, prompt: str, choices: tuple[str, ...]) -> str | None:
        """Ask the person and wait for the line; None when nobody is there (any more)."""
        if self.closed.is_set():
            return None
        self._num_asked += 1
        number, answered, answer = self._num_asked, anyio.Event(), list[str | None]()
        self._answers[number] = (answered, answer)
        self.emit(Asked(number, pid, prompt, choices))
        try:
            await answered.wait()
        finally:
            del self._answers[number]
        return answer[0] if answer else None

    def answer(self, number: int, text: str | None) -> None:
        """Hand the person's line to whoever asked; an unknown number is an answer too late."""
        if number in self._answers:
            answered, answer = self._answers[number]
            answer.append(text)
            answered.set()

    def close(self) -> None:
        """The person is gone: questions end, events go nowhere."""
        self.closed.set()
        self._arrived.set()
        self._read.set()
        for answered, _ in self._answers.values():
            answered.set()


def count_chars(event: ToTerminal) -> int:
    """What an event weighs in the buffer: the text that a process chooses the size of."""
    return len(event.text) if isinstance(event, Output | Logged) else 0


def _closed_terminal() -> Terminal:
    terminal = Terminal()
    terminal.close()
    return terminal


NOBODY = _closed_terminal()
"""The terminal of a process that runs without a person: questions end at once."""
