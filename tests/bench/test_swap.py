"""The benchmark of pages that move, on a small model."""

from pathlib import Path

import pytest
import torch

from bench.random_model import SMALL_SHAPE, make_model
from bench.swap import NUM_TOKENS, measure


@pytest.mark.slow
def test_a_context_is_restored_and_forked_without_computing_it_again(tmp_path: Path) -> None:
    make_model(tmp_path / "model", SMALL_SHAPE, torch.bfloat16)

    results = measure(str(tmp_path / "model"), tmp_path / "pages")

    assert NUM_TOKENS - 100 < results["prompt_tokens"] <= NUM_TOKENS
    assert results["prompt_tokens"] - results["restored_tokens"] <= 16
    assert results["fork_tokens_prefilled_per_branch"] <= 16
    assert 1 <= results["fork_pages_per_branch"] <= 2
    assert results["host_to_device_vs_memcpy"] > 0
    assert results["disk_restore_vs_prefill"] > 0
