"""What is made of the engines' answers."""

import pytest

from bench.peers.compare import make_ratios, measure_prefill, measure_rate, summarize

ANSWER = {
    "seconds": 4.0,
    "others": 0.0,
    "turns": [
        [{"tokens": [1, 2, 3], "first": 1.0, "last": 2.0}],
        [{"tokens": [4, 5, 6], "first": 1.5, "last": 4.0}],
    ],
}


def test_one_stream_s_rate_leaves_the_prefill_out() -> None:
    alone = ANSWER | {"turns": ANSWER["turns"][:1]}  # type: ignore[index]

    assert measure_rate("a", alone) == 2.0


def test_a_batch_s_rate_has_the_prefill_in() -> None:
    assert measure_rate("b", ANSWER) == 1.5
    assert measure_prefill(ANSWER) == 1.5


def test_a_ratio_is_to_the_best_peer_of_its_workload() -> None:
    rates = {
        "llmos": {"a": 9.0, "b": 40.0},
        "llama_cpp": {"a": 10.0, "b": 20.0},
        "generate": {"a": 5.0, "b": 10.0},
    }

    ratios = make_ratios(rates)

    assert ratios == {
        "decode_vs_best_peer": 0.9,
        "batch16_vs_best_peer": 2.0,
        "batch16_vs_generate": 4.0,
    }


def test_there_is_no_ratio_without_a_peer() -> None:
    assert make_ratios({"llmos": {"a": 9.0}}) == {}


def test_first_tokens_are_compared_with_ours() -> None:
    other = ANSWER | {"turns": [ANSWER["turns"][0], ANSWER["turns"][0]]}  # type: ignore[index]

    results = summarize({("llmos", "b"): [ANSWER], ("openvino", "b"): [other]})

    assert results["openvino_first_tokens_equal"] == pytest.approx(0.5)
    assert results["batch16_vs_best_peer"] == pytest.approx(1.0)
