"""A thread that does small jobs with files: urgent ones first, otherwise in order.

A job returns its outcome and raises nothing: a fault in it ends the thread, and `collect` says so.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
Job = Callable[[], T]


class Courier(Generic[T]):
    """Jobs in, outcomes out; the caller never waits for a job unless it asks to."""

    def __init__(self, name: str) -> None:
        self._urgent: deque[Job[T]] = deque()
        self._others: deque[Job[T]] = deque()
        self._outcomes: deque[T] = deque()
        self._changed = threading.Condition()
        self._is_closing = False
        self._num_running = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def num_waiting(self) -> int:
        """Jobs that are not urgent and have not begun."""
        return len(self._others)

    def submit(self, job: Job[T], *, is_urgent: bool = False) -> None:
        """Queue a job."""
        with self._changed:
            (self._urgent if is_urgent else self._others).append(job)
            self._changed.notify_all()

    def collect(self) -> list[T]:
        """The outcomes since the last call, in order. Raises RuntimeError if the thread died."""
        if not self._thread.is_alive() and not self._is_closing:
            raise RuntimeError(f"the thread {self._thread.name} has died")
        outcomes = []
        while self._outcomes:
            outcomes.append(self._outcomes.popleft())
        return outcomes

    def wait(self, timeout_seconds: float) -> None:
        """Wait until there is an outcome, or nothing left to do."""
        with self._changed:
            self._changed.wait_for(lambda: self._outcomes or self._is_idle(), timeout_seconds)

    def drain(self, timeout_seconds: float) -> bool:
        """Wait until nothing is left to do; whether that came to pass."""
        with self._changed:
            return self._changed.wait_for(self._is_idle, timeout_seconds)

    def close(self) -> None:
        """Forget what has not begun and end the thread."""
        with self._changed:
            self._is_closing = True
            self._urgent.clear()
            self._others.clear()
            self._changed.notify_all()
        self._thread.join()

    def _is_idle(self) -> bool:
        return not (self._urgent or self._others or self._num_running)

    def _take(self) -> Job[T] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._urgent or self._others or self._is_closing)
            queue = self._urgent or self._others
            self._num_running = int(bool(queue))
            return queue.popleft() if queue else None

    def _run(self) -> None:
        while job := self._take():
            outcome = job()
            with self._changed:
                self._outcomes.append(outcome)
                self._num_running = 0
                self._changed.notify_all()
