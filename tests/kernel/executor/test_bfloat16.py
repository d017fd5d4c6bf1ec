"""In bfloat16 every shape's logits are as right as transformers' own, on whatever path there is."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from llmos.kernel.executor.attention import Chunk, Step, using
from llmos.kernel.executor.engine import PAGE_SIZE
from llmos.kernel.executor.meter import Meter
from llmos.kernel.executor.model import Model, load_model
from llmos.kernel.executor.protocol import Load
from llmos.kernel.executor.runner import Runner

from .conftest import CONFIGS, save_checkpoint

TOKENS = torch.from_numpy(np.random.default_rng(3).integers(3, 400, 120))
CUTS = [33, 34, 35, 100, 120]  # chunks, and single tokens as in decoding
PAGES = np.array([4, 0, 7, 2, 8, 1, 3, 6], np.int32)
MAX_RATIO = 1.2


def compute_by_transformers(folder: Path, dtype: torch.dtype) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    with torch.inference_mode():
        return model(TOKENS.unsqueeze(0)).logits[0].float()  # type: ignore[no-any-return]


def compute_over_pages(
    model: Model, cuts: Iterable[int], *, is_confused: bool = False
) -> torch.Tensor:
    """The logits of all of TOKENS, computed up to each of these cuts in turn; one who is confused
    reads the first page in the place of the second."""
    runner = Runner(model, Meter(), num_pages=9, page_size=PAGE_SIZE, max_running=1)
    pool, start, found = runner.pool, 0, []
    for stop in cuts:
        places = np.arange(start, stop)
        slots = PAGES[places // PAGE_SIZE].astype(np.int64) * PAGE_SIZE + places % PAGE_SIZE
        pages = PAGES[: -(-stop // PAGE_SIZE)].copy()
        if is_confused and start >= 2 * PAGE_SIZE:
            pages[1] = pages[0]
        step = Step(pool, slots, int(stop - start == 1), [Chunk(0, stop - start, start, pages)])
        with torch.inference_mode(), using(step):
            rows = torch.arange(stop - start)
            found.append(model.compute_logits(TOKENS[start:stop], torch.from_numpy(places), rows))
        start = stop
    return torch.cat(found).float()


def measure_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """The mean over positions of the distance of the logits."""
    return float((found - exact).norm(dim=-1).mean())


# The compiled kernels take heads of 32 numbers where the processor has what they need; of 24 never.
@pytest.mark.parametrize("head_dim", [24, 32])
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_as_right_as_those_of_transformers(
    name: str, head_dim: int, tmp_path: Path
) -> None:
    save_checkpoint(name, tmp_path, num_hidden_layers=2, head_dim=head_dim)
    exact = compute_by_transformers(tmp_path, torch.float32)
    theirs = measure_error(compute_by_transformers(tmp_path, torch.bfloat16), exact)
    model = load_model(Load(str(tmp_path), device="cpu", dtype="bfloat16"))

    ours = measure_error(compute_over_pages(model, CUTS), exact)

    assert 0 < ours <= MAX_RATIO * theirs


def test_a_page_that_is_taken_for_another_is_seen_in_the_error(tmp_path: Path) -> None:
    """The control."""
    save_checkpoint("llama", tmp_path, num_hidden_layers=2)
    exact = compute_by_transformers(tmp_path, torch.float32)
    theirs = measure_error(compute_by_transformers(tmp_path, torch.bfloat16), exact)
    model = load_model(Load(str(tmp_path), device="cpu", dtype="bfloat16"))

    ours = measure_error(compute_over_pages(model, CUTS, is_confused=True), exact)

    assert ours > MAX_RATIO * theirs
