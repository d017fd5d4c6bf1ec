"""Who runs after a death: suspects alone, one by one, and everybody when all are clear."""

from collections.abc import Iterable

from llmos.kernel.drivers.driver import Finished, GenerationJob, TextDelta
from llmos.kernel.drivers.trial import PROBATION_TOKENS, Flight, choose_running
from llmos.kernel.executor.protocol import Done, Token
from llmos.syscalls.types import Usage


def make_flights(num_flights: int) -> list[Flight]:
    """Generations of as many processes, with pids from 1."""
    return [Flight(pid, GenerationJob((), pid=pid)) for pid in range(1, num_flights + 1)]


def choose(flights: Iterable[Flight], *paused: int) -> list[int]:
    """The pids of those that run, sent to the executor and held as a driver would."""
    flights = list(flights)
    chosen = choose_running(flights, set(paused))
    for flight in flights:
        flight.is_sent = flight.is_sent or flight in chosen
        flight.is_held = flight.is_sent and flight not in chosen
    return sorted(flight.job.pid for flight in chosen)


def make_token(num_tokens: int, text: str = "x") -> Token:
    return Token(1, text, num_tokens, tuple(range(num_tokens)))


def test_without_a_death_all_run_but_the_paused() -> None:
    flights = make_flights(3)

    assert choose(flights) == [1, 2, 3]
    assert choose(flights, 2) == [1, 3]


def test_suspects_run_one_at_a_time_and_newcomers_wait() -> None:
    flights = make_flights(4)
    for flight in flights[1:3]:
        flight.accuse()

    assert choose(flights) == [2]
    flights[1].take(make_token(PROBATION_TOKENS))
    assert choose(flights) == [3]
    del flights[2]
    assert choose(flights) == [1, 2, 4]


def test_a_suspect_that_is_not_far_past_the_death_stays_alone() -> None:
    flights = make_flights(2)
    flights[0].take(make_token(50))
    flights[0].accuse()

    flights[0].take(make_token(PROBATION_TOKENS - 1))

    assert choose(flights) == [1]


def test_a_paused_suspect_holds_nobody_up_and_is_tried_later() -> None:
    flights = make_flights(3)
    for flight in flights[:2]:
        flight.accuse()

    assert choose(flights, 1) == [2]
    flights[1].take(make_token(PROBATION_TOKENS))
    assert choose(flights, 1) == [2, 3]
    assert choose(flights) == [1]


def test_a_suspect_that_runs_goes_on_when_an_earlier_one_is_resumed() -> None:
    flights = make_flights(2)
    for flight in flights:
        flight.accuse()

    assert choose(flights, 1) == [2]
    assert choose(flights) == [2]


def test_the_last_text_comes_with_the_result() -> None:
    (flight,) = make_flights(1)
    done = Done(1, "Hello", (1, 2), (), "stop", Usage(3, 0, 2))

    flight.take(make_token(1, "Hel"))
    flight.finish(done)

    items = [flight.items.get_nowait() for _ in range(3)]
    assert items == [
        TextDelta("Hel", 1),
        TextDelta("lo", 2),
        Finished("Hello", (), "stop", done.usage),
    ]
