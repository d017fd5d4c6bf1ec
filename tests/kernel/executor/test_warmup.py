"""The largest step is run before there are pages."""

from pathlib import Path

from llmos.kernel.executor.attention import is_stepping
from llmos.kernel.executor.model import load_model
from llmos.kernel.executor.protocol import Load
from llmos.kernel.executor.warmup import measure_step_bytes, run_largest_step


def test_the_largest_step_computes_and_draws_for_all(qwen3: Path) -> None:
    model = load_model(Load(str(qwen3), device="cpu"))

    tokens = run_largest_step(model, num_tokens=70, num_sequences=9, page_size=16)

    assert len(tokens) == 9
    assert all(token is not None and 0 <= token < 400 for token in tokens)
    assert not is_stepping()


def test_a_step_is_no_longer_than_the_window(qwen3: Path) -> None:
    model = load_model(Load(str(qwen3), device="cpu", max_model_len=20))

    assert len(run_largest_step(model, num_tokens=512, num_sequences=30, page_size=16)) == 30


def test_nothing_is_measured_where_memory_is_not_counted(qwen3: Path) -> None:
    model = load_model(Load(str(qwen3), device="cpu"))

    assert measure_step_bytes(model, num_tokens=64, num_sequences=4, page_size=16) == 0
