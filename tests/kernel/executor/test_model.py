"""Which models are refused, and how; what a fingerprint tells apart."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import BloomConfig, MambaConfig, T5Config

from llmos.kernel.executor.checkpoint import compute_fingerprint, find_checkpoint
from llmos.kernel.executor.model import load_model
from llmos.kernel.executor.protocol import Load
from llmos.syscalls.errors import E_MODEL


@pytest.fixture
def copy(qwen3: Path, tmp_path: Path) -> Path:
    return shutil.copytree(qwen3, tmp_path / "copy")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(E_MODEL, match=r"no folder .*gone; fix:"):
        find_checkpoint(str(tmp_path / "gone"))


def test_a_folder_that_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(E_MODEL, match=r"no config\.json"):
        find_checkpoint(str(tmp_path))


def test_pickled_weights_are_refused_with_the_fix(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")

    with pytest.raises(E_MODEL, match=r"pytorch_model\.bin.*fix: .*safetensors"):
        find_checkpoint(str(copy))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (T5Config(), "encoder-decoder"),
        (MambaConfig(), "state-space"),
        (BloomConfig(), "attention interface"),
    ],
)
def test_a_model_that_cannot_run_over_pages_is_refused(
    copy: Path, config: T5Config | MambaConfig | BloomConfig, reason: str
) -> None:
    config.save_pretrained(copy)

    with pytest.raises(E_MODEL, match=reason):
        load_model(Load(str(copy)))


def test_code_that_comes_with_a_model_is_not_run(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "evil.Evil"}}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "evil.py").write_text("raise SystemExit('it ran')")

    with pytest.raises(E_MODEL, match=r"config\.json cannot be used"):
        load_model(Load(str(copy)))


def test_damaged_weights_are_refused(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])

    with pytest.raises(E_MODEL, match="cut short"):
        load_model(Load(str(copy)))


def test_an_unknown_device_is_refused(qwen3: Path) -> None:
    with pytest.raises(E_MODEL, match="known: auto, cpu, cuda"):
        load_model(Load(str(qwen3), device="abacus"))


def test_a_changed_weight_changes_the_fingerprint(copy: Path) -> None:
    before = compute_fingerprint(copy)
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)

    assert compute_fingerprint(copy) != before


def test_another_tokenizer_changes_the_beginning_of_the_fingerprint(copy: Path) -> None:
    before, _, weights = compute_fingerprint(copy, "float32").partition("-")
    other = compute_fingerprint(copy, "int8")

    tokenizer = copy / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")

    assert other.startswith(f"{before}-")
    assert not other.endswith(weights)
    assert not compute_fingerprint(copy, "float32").startswith(f"{before}-")


def test_a_loaded_model_knows_its_layers(qwen3: Path) -> None:
    model = load_model(Load(str(qwen3), dtype="bfloat16", max_model_len=100))

    assert (model.layers[0].num_heads, model.layers[0].key_dim, len(model.layers)) == (2, 24, 4)
    assert (model.dtype, model.max_model_len) == (torch.bfloat16, 100)
