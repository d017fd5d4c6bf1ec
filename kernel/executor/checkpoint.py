"""Where a model's files are, whether they may be loaded, and what they are.

Only safetensors weights are read: a pickle runs code when it is opened. A hub id becomes a folder
of the hub's cache first; from there on everything is local. What is wrong with a folder is said
here, in a line and with the fix, before transformers meets it.
"""

import json
import os
import struct
from hashlib import blake2b
from pathlib import Path
from typing import Any

from llmos.syscalls.errors import E_MODEL

_WANTED = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_INDEX = "model.safetensors.index.json"
_FETCH = "fix: copy or download the folder's files again"
_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "n_embd",
    "n_layer",
    "n_head",
    "n_positions",
)
_MAX_SIZE = 1 << 31
_LENGTH = struct.Struct("<Q")
_SLICE_BYTES = 1 << 16
_NUM_SLICES = 64


def find_checkpoint(model: str) -> Path:
    """The folder of a model's files, fetched from the hub if `model` is an id. Raises E_MODEL."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        if folder.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
            raise E_MODEL(f"there is no folder {model}; fix: give a folder with a model's files")
        folder = _fetch(model)
    if not (folder / "config.json").is_file():
        raise E_MODEL(f"{folder} has no config.json; fix: give a folder with a model's files")
    _check_config(folder)
    _check_weights(folder)
    return folder


def _read_json(path: Path) -> dict[str, Any]:
    """A file's JSON object. Raises E_MODEL."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise E_MODEL(f"{path} is not JSON: {str(error)[:100]}; {_FETCH}") from None
    if not isinstance(value, dict):
        raise E_MODEL(f"{path} is no JSON object; {_FETCH}")
    return value


def _check_config(folder: Path) -> None:
    """Raises E_MODEL for a model that transformers does not know, and for sizes that are none."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    path = folder / "config.json"
    config = _read_json(path)
    kind = config.get("model_type")
    if kind not in CONFIG_MAPPING_NAMES:
        reason = f"{path} cannot be used: transformers knows no model_type {kind!r:.60}"
        if config.get("auto_map"):
            reason += ", and code that comes with a model (auto_map) is never run"
        raise E_MODEL(f"{reason}; fix: take a model of a known type, or a newer transformers")
    inner = config.get("text_config")
    for part in (config, inner if isinstance(inner, dict) else {}):
        for name in _SIZES:
            size = part.get(name)
            if size is not None and not all(map(_is_size, size if type(size) is list else [size])):
                raise E_MODEL(f"{path} cannot be used: {name} is {size!r:.60}; {_FETCH}")


def _is_size(value: object) -> bool:
    return type(value) is int and 0 < value < _MAX_SIZE


def _check_weights(folder: Path) -> None:
    """Raises E_MODEL when weights are missing, cut short, or may run code."""
    index = folder / _INDEX
    paths = sorted(folder.glob("*.safetensors"))
    if index.is_file():
        named = _read_json(index).get("weight_map")
        if not isinstance(named, dict) or not all(isinstance(one, str) for one in named.values()):
            raise E_MODEL(f"{index} has no weight_map; {_FETCH}")
        there = {path.name for path in paths}
        missing = sorted(set(named.values()) - there)
        if missing:
            num_files = f"{len(missing)} of {len(set(named.values()))} files with weights"
            raise E_MODEL(f"{folder} lacks {num_files}: {missing[0]}; {_FETCH}")
    if not paths:
        raise E_MODEL(_explain_missing_weights(folder))
    for path in paths:
        _check_whole(path)


def _check_whole(path: Path) -> None:
    """Raises E_MODEL unless the file is as long as its header says."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_LENGTH.size)
        header_bytes = _LENGTH.unpack(start)[0] if len(start) == _LENGTH.size else size_bytes
        if _LENGTH.size + header_bytes > size_bytes:
            raise E_MODEL(f"{path} is cut short, or no safetensors file; {_FETCH}")
        try:
            header = json.loads(file.read(header_bytes))
            ends = [one["data_offsets"][1] for name, one in header.items() if name[:2] != "__"]
            wanted_bytes = _LENGTH.size + header_bytes + max(ends, default=0)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            raise E_MODEL(f"{path} is no safetensors file; {_FETCH}") from None
    if size_bytes < wanted_bytes:
        raise E_MODEL(f"{path} is cut short: {size_bytes} of {wanted_bytes} bytes; {_FETCH}")


def _explain_missing_weights(folder: Path) -> str:
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if not pickles:
        return f"{folder} has no weights; fix: add its *.safetensors files"
    return (
        f"{folder} has its weights as a pickle ({pickles[0]}), which can run code when opened;"
        " fix: save the model with save_pretrained (safetensors) and give that folder"
    )


def _fetch(model: str) -> Path:
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=_WANTED))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise E_MODEL(
            f"cannot reach the model hub for {model}: {reason}; fix: give a folder"
        ) from None


def compute_fingerprint(folder: Path, *facts: str) -> str:
    """A digest of the weights, the configuration, the tokenizer and `facts`.

    Of each weight file: its header, its size and 64 slices of 64 KiB spread evenly, so that a model
    of any size is told apart in milliseconds.
    """
    digest = blake2b("\0".join(facts).encode(), digest_size=16)
    for path in sorted(folder.glob("*.json")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        size_bytes = path.stat().st_size
        digest.update(f"{path.name}\0{size_bytes}\0".encode())
        with path.open("rb") as file:
            for index in range(_NUM_SLICES):
                file.seek(index * size_bytes // _NUM_SLICES)
                digest.update(file.read(_SLICE_BYTES))
    return digest.hexdigest()
