"""Who runs after a death: suspects alone, one by one, and everybody when all are clear."""

from collections.abc import Iterable

from llmos.kernel.drivers.driver import Emitted, Finished, GenerationJob, TextDelta
from llmos.kernel.drivers.trial import PROBATION_TOKENS, Flight, choose_running
from llmos.kernel.executor.protocol import Done, Generate, Token
from llmos.syscalls.types import TokenLogprobs, TokenScore, Usage


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
    flight.fingerprint = "a-1"
    done = Done(1, "Hello", (0, 2), (), "stop", Usage(3, 0, 2))

    flight.take(make_token(1, "Hel"))
    flight.finish(done)

    items = [flight.items.get_nowait() for _ in range(3)]
    assert items == [
        TextDelta("Hel", 1, (0,), "a-1"),
        TextDelta("lo", 2, (2,), "a-1"),
        Finished("Hello", (), "stop", done.usage),
    ]


def describe(*tokens: int) -> tuple[TokenLogprobs, ...]:
    return tuple(TokenLogprobs(TokenScore(token, "x", -1.0)) for token in tokens)


def test_a_generation_that_another_kernel_began_goes_on_after_its_tokens() -> None:
    emitted = Emitted((7, 8), "Hel", "a-1", describe(7, 8))
    flight = Flight(1, GenerationJob((), emitted=emitted))

    request = flight.make_request()
    flight.take(Token(1, "l", 3, (9,), describe(9)))
    done = Done(1, "Hello", (7, 8, 9, 2), (), "stop", Usage(3, 0, 4), describe(9, 2))
    flight.finish(done)

    assert isinstance(request, Generate)
    assert request.emitted == (7, 8)
    items = [flight.items.get_nowait() for _ in range(3)]
    assert items == [
        TextDelta("l", 3, (9,), "a-1", describe(9)),
        TextDelta("o", 4, (2,), "a-1", describe(2)),
        Finished("Hello", (), "stop", done.usage, describe(7, 8, 9, 2)),
    ]


def test_one_that_was_whole_already_has_only_its_result() -> None:
    flight = Flight(1, GenerationJob((), emitted=Emitted((7, 2), "Hi", "a-1")))
    done = Done(1, "Hi", (7, 2), (), "stop", Usage(3, 0, 2))

    flight.finish(done)

    assert flight.items.get_nowait() == Finished("Hi", (), "stop", done.usage)
