"""The thread that works on files."""

import threading

from llmos.kernel.executor.courier import Courier


def test_jobs_are_done_in_order() -> None:
    courier: Courier[int] = Courier("test")
    for number in range(20):
        courier.submit(lambda number=number: number)  # type: ignore[misc]

    assert courier.drain(10)
    assert courier.collect() == list(range(20))
    courier.close()


def test_urgent_jobs_overtake_those_that_wait() -> None:
    courier: Courier[str] = Courier("test")
    gate, has_begun = threading.Event(), threading.Event()

    def wait() -> str:
        has_begun.set()
        return str(gate.wait(10))

    courier.submit(wait)
    has_begun.wait(10)
    courier.submit(lambda: "other")
    courier.submit(lambda: "urgent", is_urgent=True)

    gate.set()
    courier.drain(10)

    assert courier.collect() == ["True", "urgent", "other"]
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
    courier: Courier[int] = Courier("test")
    gate, has_begun = threading.Event(), threading.Event()

    def wait() -> int:
        has_begun.set()
        return int(gate.wait(10))

    courier.submit(wait)
    courier.submit(lambda: 2)
    has_begun.wait(10)
    threading.Timer(0.05, gate.set).start()

    courier.close()

    assert courier.collect() == [1]
