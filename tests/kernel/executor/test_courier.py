"""The thread that works on files."""

import threading
from collections.abc import Callable

from llmos.kernel.executor.courier import Courier


def test_jobs_are_done_in_order() -> None:
    courier: Courier[int] = Courier("test")
    for number in range(20):
        courier.submit(lambda number=number: number)  # type: ignore[misc]

    assert courier.drain(10)
    assert courier.collect() == list(range(20))
    courier.close()


def begin(courier: Courier[str], wait: Callable[[], object]) -> None:
    """Have the thread in the middle of a job that waits for something."""
    has_begun = threading.Event()

    def work() -> str:
        has_begun.set()
        wait()
        return "begun"

    courier.submit(work)
    assert has_begun.wait(10)


def test_urgent_jobs_overtake_those_that_wait() -> None:
    courier: Courier[str] = Courier("test")
    gate = threading.Event()
    begin(courier, lambda: gate.wait(10))
    courier.submit(lambda: "other")
    courier.submit(lambda: "urgent", is_urgent=True)

    gate.set()
    courier.drain(10)

    assert courier.collect() == ["begun", "urgent", "other"]
    courier.close()


def test_waiting_ends_with_the_first_outcome() -> None:
    courier: Courier[int] = Courier("test")
    courier.submit(lambda: 1)

    courier.wait(10)

    assert courier.collect() == [1]
    courier.close()


def test_a_wait_for_nothing_ends_at_once() -> None:
    courier: Courier[int] = Courier("test")

    courier.wait(10)

    assert courier.collect() == []
    courier.close()


def test_what_has_not_begun_when_it_is_closed_is_forgotten() -> None:
    courier: Courier[str] = Courier("test")
    begin(courier, lambda: wait_for_close(courier))
    courier.submit(lambda: "forgotten")

    courier.close()

    assert courier.collect() == ["begun"]


def wait_for_close(courier: Courier[str]) -> None:
    with courier._changed:
        courier._changed.wait_for(lambda: courier._is_closing, 10)
