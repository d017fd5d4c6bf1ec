"""Models with int8 weights: how far they are from float32, what they say of themselves, and where
they are refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from llmos.kernel.executor.device import pick_dtype
from llmos.kernel.executor.engine import Engine
from llmos.kernel.executor.model import Model, load_model
from llmos.kernel.executor.native.modules import PackedLinear
from llmos.kernel.executor.protocol import Load
from llmos.syscalls.errors import E_MODEL

from .test_int8 import round_weights
from .test_whole_model import ARCHITECTURES, TOKENS, compute_by_transformers, compute_logits

pytestmark = pytest.mark.usefixtures("kernels")
MAX_ERROR = 3.0  # of what bfloat16 errs by; 1.5 to 2.2 were found


def load(folder: Path, dtype: str = "int8") -> Model:
    return load_model(Load(str(folder), device="cpu", dtype=dtype))


def measure_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """The mean over positions of the logits' distance, relative to their norm."""
    return float(((found.float() - exact).norm(dim=-1) / exact.norm(dim=-1)).mean())


def compute_with_rounded_weights(folder: Path) -> torch.Tensor:
    """The logits by transformers in float32, with the weights that int8 stands for."""
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).float().eval()
    for part in network.modules():
        if isinstance(part, nn.Linear):
            part.weight = nn.Parameter(round_weights(part.weight).float())
        elif isinstance(part, Conv1D):
            part.weight = nn.Parameter(round_weights(part.weight.T).T.float())
    with torch.inference_mode():
        return network(TOKENS.unsqueeze(0)).logits[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_int8_errs_by_its_weights_alone_unless_a_scale_is_wrong(
    name: str, make_native_checkpoint: Callable[[str], Path]
) -> None:
    folder = make_native_checkpoint(name)
    exact = compute_by_transformers(folder, torch.float32)
    rounded = compute_with_rounded_weights(folder)
    theirs = measure_error(compute_by_transformers(folder, torch.bfloat16), exact)
    model = load(folder)

    found = compute_logits(model, [33, 34, 120])
    with torch.inference_mode():
        for part in model.network.modules():
            if isinstance(part, PackedLinear) and part.scales is not None:
                part.scales.mul_(1.1)
    wrong = compute_logits(model, [33, 34, 120])

    assert measure_error(found, exact) < MAX_ERROR * theirs
    assert measure_error(found, rounded) < 1.2 * theirs < measure_error(wrong, rounded)


def test_a_model_says_that_its_weights_are_int8(
    make_native_checkpoint: Callable[[str], Path],
) -> None:
    folder = make_native_checkpoint("qwen3")
    engine = Engine(Load(str(folder), device="cpu", dtype="int8"), num_pages=32)

    assert engine.loaded.dtype == "int8"
    engine.close()


def test_its_pages_are_not_those_of_the_same_model_in_bfloat16(
    make_native_checkpoint: Callable[[str], Path],
) -> None:
    folder = make_native_checkpoint("qwen3")

    narrow, wide = load(folder), load(folder, "bfloat16")

    assert narrow.fingerprint != wide.fingerprint
    assert narrow.fingerprint == load(folder).fingerprint
    assert narrow.dtype == wide.dtype == wide.weight_dtype == torch.bfloat16


def test_the_embedding_stays_as_it_is(make_native_checkpoint: Callable[[str], Path]) -> None:
    model = load(make_native_checkpoint("gemma3"))

    assert model.network.get_input_embeddings().weight.dtype == torch.bfloat16
    assert model.network.lm_head.packed.dtype == torch.int8


def test_attention_that_the_kernels_do_not_take_is_an_error_with_a_fix(qwen3: Path) -> None:
    with pytest.raises(E_MODEL, match="do not take its attention; fix: dtype = auto") as caught:
        load(qwen3)

    assert caught.value.field == "dtype"


@pytest.mark.parametrize("name", ["cuda:0", "mps"])
def test_another_device_is_an_error_with_a_fix(name: str) -> None:
    with pytest.raises(E_MODEL, match=f"not on {name}; fix: device = cpu, or dtype = auto"):
        pick_dtype("int8", torch.device(name))


@pytest.mark.usefixtures("forget")
def test_a_machine_without_a_compiler_is_an_error_with_a_fix(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    with pytest.raises(
        E_MODEL, match=r"no C compiler is found; fix: install gcc, or dtype"
    ) as caught:
        pick_dtype("int8", torch.device("cpu"))

    assert caught.value.field == "dtype"
