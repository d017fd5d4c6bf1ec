"""What pages cost and are worth, and that the order of two idle pages never changes."""

import math

from hypothesis import given
from hypothesis import strategies as st

from llmos.kernel.executor.worth import ComputeCost, TransferCost

SECONDS = st.floats(0, 1e5)


def make_cost(base: float, slope: float) -> ComputeCost:
    """A cost that has seen steps at several positions."""
    cost = ComputeCost(page_size=16, num_pages=100)
    for position in (100.0, 500.0, 1000.0, 200.0, 1500.0):
        cost.observe(256, position, 256 * (base + slope * position))
    return cost


def test_the_cost_of_a_page_is_learnt_with_its_position() -> None:
    cost = make_cost(1e-3, 2e-6)

    first, later = cost.count_seconds(0, 1), cost.count_seconds(100, 1)

    assert math.isclose(first, 16 * (1e-3 + 8 * 2e-6), rel_tol=1e-6)
    assert math.isclose(later, 16 * (1e-3 + 1608 * 2e-6), rel_tol=1e-6)


def test_nothing_computed_yet_makes_what_is_there_worth_having() -> None:
    assert ComputeCost(page_size=16, num_pages=4).count_seconds(0, 1) == math.inf


def test_decodes_teach_nothing_about_prefill() -> None:
    cost = make_cost(1e-3, 0.0)

    cost.observe(8, 100.0, 9.0)

    assert math.isclose(cost.count_seconds(0, 1), 16e-3, rel_tol=1e-6)


def test_a_change_of_speed_is_followed() -> None:
    cost = make_cost(1e-3, 0.0)

    for _ in range(60):
        cost.observe(256, 700.0, 256 * 4e-3)

    assert math.isclose(cost.count_seconds(43, 1), 16 * 4e-3, rel_tol=0.05)


def test_the_horizon_is_the_time_to_fill_the_pool() -> None:
    assert math.isclose(make_cost(1e-2, 0.0).horizon_seconds, 1600 * 1e-2, rel_tol=1e-6)


def test_later_use_less_idleness_more_sharing_and_later_pages_rank_higher() -> None:
    cost = make_cost(1e-3, 2e-6)
    usual = cost.rank(1, 0, 100.0, 0.0)

    assert cost.rank(1, 0, 101.0, 0.0) > usual
    assert cost.rank(1, 0, 100.0, 5.0) < usual
    assert cost.rank(1, 1, 100.0, 0.0) > usual
    assert cost.rank(9, 0, 100.0, 0.0) > usual


@given(st.tuples(SECONDS, SECONDS), st.tuples(SECONDS, SECONDS), st.integers(0, 100), SECONDS)
def test_ranks_order_pages_as_worth_does_at_any_time(
    one: tuple[float, float], other: tuple[float, float], index: int, now: float
) -> None:
    cost = make_cost(1e-3, 2e-6)

    def count_log_worth(index: int, used: float, idle: float) -> float:
        """The logarithm of seconds to compute x P(needed again before the room is)."""
        weight = (1e-3 + 2e-6 * 16 * index) / 1e-3
        return math.log(weight) - (now - used + idle) / cost.horizon_seconds

    worths = count_log_worth(index, *one) - count_log_worth(0, *other)
    ranks = cost.rank(index, 0, *one) - cost.rank(0, 0, *other)

    assert math.isclose(ranks, worths * cost.horizon_seconds, rel_tol=1e-5, abs_tol=1e-5)


def test_a_transfer_that_was_slow_is_tried_again_after_some_refusals() -> None:
    transfer = TransferCost(1e6)
    for _ in range(100):
        transfer.observe(1000, 1.0)
    slow = transfer.count_seconds(1_000_000)

    for _ in range(20):
        transfer.recover()

    assert slow > 900
    assert transfer.count_seconds(1_000_000) < slow / 2
