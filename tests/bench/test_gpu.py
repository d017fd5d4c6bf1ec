"""The arithmetic of the GPU benchmark."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from bench.gpu import (
    QUICK,
    compute_step_seconds,
    count_prefill_operations,
    count_product_weights,
    count_step_bytes,
    make_model_on,
    make_prompts,
    measure_decode,
    measure_device,
)
from bench.random_model import QWEN3_8B_SHAPE, SMALL_SHAPE
from bench.stepping import Loop

CPU = torch.device("cpu")


def test_the_weights_that_multiply_are_the_matrices_of_the_layers() -> None:
    network = AutoModelForCausalLM.from_config(SMALL_SHAPE)

    counted = sum(one.numel() for one in network.model.layers.parameters() if one.dim() == 2)

    assert count_product_weights(SMALL_SHAPE) == counted


def test_an_eight_billion_shape_has_about_eight_billion_weights() -> None:
    weights = count_product_weights(QWEN3_8B_SHAPE)
    weights += 2 * QWEN3_8B_SHAPE.vocab_size * QWEN3_8B_SHAPE.hidden_size

    assert weights == pytest.approx(8.2e9, rel=0.01)


def test_a_step_reads_its_weights_once_and_every_token_s_pages() -> None:
    alone = count_step_bytes(SMALL_SHAPE, 2, 0)

    weights = count_product_weights(SMALL_SHAPE) + 4096 * 256
    assert alone == 2 * weights
    assert count_step_bytes(SMALL_SHAPE, 2, 10) - alone == 2 * 10 * 6 * 2 * (64 + 64)


def test_a_longer_prompt_costs_its_products_and_its_square() -> None:
    one, two = (count_prefill_operations(SMALL_SHAPE, size) for size in (1000, 2000))

    assert two - 2 * one == pytest.approx(2 * 2.0 * 6 * 4 * 64 * 1000**2)


def test_a_step_s_time_is_taken_while_all_decode() -> None:
    early = [float(moment) for moment in range(10)]
    late = [5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 12.0]

    assert compute_step_seconds([early, late]) == 1.0


def test_sequences_that_never_meet_have_no_step_time() -> None:
    with pytest.raises(ValueError, match="all at once"):
        compute_step_seconds([[1.0, 2.0], [3.0, 4.0]])


def test_prompts_are_the_same_each_time_and_share_no_beginning() -> None:
    prompts = make_prompts(8, 5, 4096)

    assert prompts == make_prompts(8, 5, 4096)
    assert len({prompt[0] for prompt in prompts}) == 8


def test_the_device_s_rates_are_rates() -> None:
    assert all(rate > 1e6 for rate in measure_device(CPU, QUICK).values())


def test_a_decode_is_timed_on_any_device() -> None:
    model = make_model_on(CPU, SMALL_SHAPE)

    seconds, num_graphs = measure_decode(model, QUICK, 3, wants_graphs=True)

    assert 0 < seconds < 10
    assert num_graphs == 0


def test_a_loop_answers_the_same_in_company() -> None:
    model = make_model_on(CPU, SMALL_SHAPE)
    prompts = make_prompts(3, 20, 4096)

    def answer(chosen: list[list[int]]) -> list[list[int]]:
        loop = Loop(model, num_pages=16, max_running=3, max_step_tokens=30)
        answers = loop.generate(chosen, 5)
        loop.close()
        assert all(one.timestamps == sorted(one.timestamps) for one in answers)
        return [one.tokens for one in answers]

    assert answer(prompts) == [answer([prompt])[0] for prompt in prompts]
