"""The benchmark of int8 weights, on a small model."""

from pathlib import Path

import pytest
import torch

from bench.int8 import BOTH, count_weight_bytes, load, measure_distance, measure_model
from bench.random_model import SMALL_SHAPE, make_model
from llmos.kernel.executor.native.library import has_native_kernels

pytestmark = pytest.mark.skipif(not has_native_kernels(), reason="needs the compiled kernels")
TEXT = [list(range(3, 103)), list(range(500, 530))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_model(folder, SMALL_SHAPE, torch.bfloat16)
    return folder


def test_every_number_of_a_model_is_there(folder: Path) -> None:
    results = measure_model(folder, TEXT, 4, 1)

    assert results["text_tokens"] == 130
    assert results["int8_weight_bytes"] < 0.75 * results["bfloat16_weight_bytes"]
    assert all(results[f"{dtype}_tokens_per_second_16"] > 0 for dtype in BOTH)
    assert results["bfloat16_kl_divergence"] < results["int8_kl_divergence"] < 0.01
    assert 0.5 < results["int8_top1_agreement"] <= 1


def test_a_model_is_no_distance_from_itself_and_a_spoilt_one_is_far(folder: Path) -> None:
    exact, spoilt = load(folder, "float32"), load(folder, "float32")
    with torch.inference_mode():
        for parameter in spoilt.network.lm_head.parameters():
            parameter.copy_(parameter.roll(1, 0))

    found = measure_distance(exact, {"same": exact, "spoilt": spoilt}, TEXT)

    assert found["same_kl_divergence"] == pytest.approx(0, abs=1e-6)
    assert found["same_top1_agreement"] == 1
    assert found["spoilt_top1_agreement"] < 0.5


def test_shared_weights_count_once(folder: Path) -> None:
    model = load(folder, "float32")

    num_parameters = sum(one.numel() for one in model.network.parameters())

    assert 1 <= count_weight_bytes(model) / (4 * num_parameters) < 1.01
