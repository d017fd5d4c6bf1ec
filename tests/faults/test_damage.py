"""Suite R9 in its short form, and its control."""

from tests.faults import damage


def test_a_damaged_store_serves_no_wrong_data() -> None:
    counts = damage.run(100, seed=1)

    assert counts["num_runs"] == 100
    assert (counts["num_wrong"], counts["num_unnamed"]) == (0, 0)
    assert counts["num_named"] > 100


def test_without_our_checksums_the_same_damage_serves_wrong_data() -> None:
    """The control."""
    counts = damage.run(100, seed=1, is_weak=True)

    assert counts["num_wrong"] > 0
