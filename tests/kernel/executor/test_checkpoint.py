"""Model folders that cannot be used: each is one line with the fix, and nothing of it is run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmos.kernel.executor.checkpoint import find_checkpoint
from llmos.kernel.executor.model import load_model
from llmos.kernel.executor.protocol import Load
from llmos.syscalls.errors import E_MODEL

from .conftest import CONFIGS, make_tokenizer

EVIL = "raise SystemExit('it ran')"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(make_copy: Callable[[str], Path]) -> Path:
    return make_copy("llama")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A folder whose weights are in several files."""
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(CONFIGS["llama"](), dtype=torch.float32)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="300KB")
    make_tokenizer().save_pretrained(tmp_path / "sharded")
    return tmp_path / "sharded"


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refuse(folder: Path) -> str:
    """The line that a folder is refused with."""
    with pytest.raises(E_MODEL) as caught:
        load_model(Load(str(folder)))
    assert "\n" not in caught.value.message
    assert "; fix: " in caught.value.message
    return caught.value.message


def test_weights_in_several_files_are_a_checkpoint(sharded: Path) -> None:
    assert len(list(sharded.glob("*.safetensors"))) > 2
    assert find_checkpoint(str(sharded)) == sharded


def test_a_missing_shard_is_named(sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()

    assert shard.name in refuse(sharded)


@pytest.mark.parametrize("text", ["{oops", "[]", "{}", '{"weight_map": {"a": 1}}'])
def test_an_index_that_cannot_be_read_is_named(sharded: Path, text: str) -> None:
    (sharded / INDEX).write_text(text)

    assert INDEX in refuse(sharded)


def test_a_file_of_weights_that_was_cut_short_says_by_how_much(folder: Path) -> None:
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1000])

    assert f"cut short: {len(data) - 1000} of {len(data)} bytes" in refuse(folder)


@pytest.mark.parametrize("data", [b"", b"abc", b"x" * 5000, b"\2" + bytes(7) + b"[]"])
def test_weights_in_no_form_that_is_known_are_refused(folder: Path, data: bytes) -> None:
    (folder / "model.safetensors").write_bytes(data)

    assert "no safetensors file" in refuse(folder)


@pytest.mark.parametrize("text", ["{oops", "[]", "[" * 100_000, "\ufffe"])
def test_a_config_that_is_no_json_object_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("utf-16" if text == "\ufffe" else "utf-8"))

    assert "JSON" in refuse(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", -64),
        ("num_hidden_layers", -1),
        ("num_attention_heads", 0),
        ("vocab_size", 10**12),
        ("hidden_size", "many"),
        ("max_position_embeddings", True),
        ("intermediate_size", [96, -96]),
    ],
)
def test_a_size_that_is_none_is_named(folder: Path, name: str, value: object) -> None:
    change_config(folder, **{name: value})

    assert f"{name} is {value!r}" in refuse(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", 66),
        ("layer_types", ["full_attention"]),
        ("head_dim", 25),
        ("rope_parameters", "x"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(
    folder: Path, name: str, value: object
) -> None:
    change_config(folder, **{name: value})

    assert "config.json cannot be used" in refuse(folder)


def test_an_unknown_model_type_is_named(folder: Path) -> None:
    change_config(folder, model_type="zorp")

    assert "model_type 'zorp'" in refuse(folder)


def test_a_model_that_needs_its_own_code_is_refused(folder: Path) -> None:
    change_config(folder, model_type="zorp", auto_map={"AutoConfig": "evil.Evil"})
    (folder / "evil.py").write_text(EVIL)

    assert "never run" in refuse(folder)


def test_a_known_model_that_brings_code_runs_without_it(folder: Path) -> None:
    change_config(folder, auto_map={"AutoConfig": "evil.E", "AutoModelForCausalLM": "evil.E"})
    (folder / "evil.py").write_text(EVIL)

    assert load_model(Load(str(folder))).architecture == "LlamaForCausalLM"


def test_a_tokenizer_that_brings_code_is_refused(folder: Path) -> None:
    changes = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.E", None]}}
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    (folder / "evil.py").write_text(EVIL)

    assert "custom code" in refuse(folder)


@pytest.mark.parametrize("text", ["{}", '{"version":'])
def test_a_damaged_tokenizer_is_refused(folder: Path, text: str) -> None:
    (folder / "tokenizer.json").write_text(text)

    assert "no usable tokenizer" in refuse(folder)
