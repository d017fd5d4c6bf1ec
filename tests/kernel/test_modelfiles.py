"""What the standard library reads of a model's folder, and what it says of one that is broken."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from llmos.kernel.modelfiles import find_folder, is_path, read_model_files
from llmos.syscalls.errors import E_MODEL

Make = Callable[..., Path]
WEIGHT = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def write_weights(path: Path, header: object, *, num_data_bytes: int = 24) -> None:
    body = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(body)) + body + bytes(num_data_bytes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"hidden_size": 8, "text_config": {"head_dim": 4}}')
    header = {"__metadata__": {"format": "pt"}, "a": WEIGHT}
    write_weights(tmp_path / "model.safetensors", header)
    return tmp_path


def refuse(folder: Path) -> str:
    with pytest.raises(E_MODEL) as caught:
        read_model_files(folder)
    assert "\n" not in caught.value.message
    assert "; fix: " in caught.value.message
    return caught.value.message


def test_a_folder_says_its_configuration_and_its_tensors(folder: Path) -> None:
    write_weights(folder / "more.safetensors", {"b": WEIGHT | {"shape": []}})

    files = read_model_files(folder)

    assert files.config["hidden_size"] == 8
    assert files.shapes == {"a": (2, 3), "b": ()}
    assert files.num_parameters == 7


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[1]", "is no JSON object"),
        ("\xff", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"hidden_size": -1}', "hidden_size is -1"),
        ('{"text_config": {"head_dim": "8"}}', "head_dim is '8'"),
        ('{"num_key_value_heads": [8, 0]}', r"num_key_value_heads is [8, 0]"),
    ],
)
def test_a_configuration_that_is_none_is_named(folder: Path, text: str, words: str) -> None:
    (folder / "config.json").write_text(text, encoding="latin-1")

    assert words in refuse(folder)


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        b"[]",
        b"\xff\xff",
        {"a": {"shape": [2, 3]}},
        {"a": WEIGHT | {"shape": [-2, 3]}},
        {"a": WEIGHT | {"data_offsets": [0]}},
        {"a": 5},
    ],
)
def test_a_header_that_is_none_is_named(folder: Path, header: object) -> None:
    write_weights(folder / "model.safetensors", header)

    assert "is no safetensors file" in refuse(folder)


def test_a_file_that_is_cut_short_is_named(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()

    for num_bytes, words in ((0, "is cut short"), (20, "is cut short"), (len(whole) - 1, "bytes")):
        path.write_bytes(whole[:num_bytes])
        assert words in refuse(folder)


def test_a_header_that_claims_to_be_enormous_is_not_read(folder: Path) -> None:
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 1 << 40))
        file.truncate(2 << 40)  # no byte of it is on the disk

    assert "no safetensors file" in refuse(folder)


def test_what_is_not_there_is_named(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "c": "gone.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lacks 1 of 2 files with weights: gone.safetensors" in refuse(folder)

    (folder / "model.safetensors.index.json").unlink()
    (folder / "model.safetensors").unlink()
    assert "has no weights" in refuse(folder)
    (folder / "weights.bin").write_bytes(b"")
    assert "as a pickle (weights.bin)" in refuse(folder)

    (folder / "config.json").unlink()
    assert "has no config.json" in refuse(folder)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ('{"base_model_name_or_path": "Qwen/Qwen3-0.6B"}', "is an adapter of 'Qwen/Qwen3-0.6B'"),
        ("{}", "is an adapter, not a model"),
        ("{", "is not JSON"),
    ],
)
def test_an_adapter_without_its_model_is_called_so(folder: Path, config: str, words: str) -> None:
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text(config)

    assert words in refuse(folder)


def test_a_name_is_a_folder_or_an_id_of_the_hub(tmp_path: Path) -> None:
    assert find_folder(str(tmp_path)) == tmp_path
    for name in ("/no/such", "./no", "~/no/such", "a/b/c"):
        assert is_path(name)
        with pytest.raises(E_MODEL, match="there is no folder"):
            find_folder(name)
    assert not is_path("org/model")
    assert find_folder("org/model-that-nobody-fetched") is None
    with pytest.raises(E_MODEL, match="no model of the hub can have that name; fix:"):
        find_folder("no such name")


def test_a_model_that_was_fetched_as_a_whole_is_found_in_the_cache(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--name" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    refs = tmp_path / "models--org--name" / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    before = find_folder("org/name", cache=tmp_path)

    write_weights(snapshot / "model.safetensors", {"a": WEIGHT})

    assert before is None
    assert find_folder("org/name", cache=tmp_path) == snapshot
