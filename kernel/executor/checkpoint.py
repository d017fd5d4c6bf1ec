"""Where a model's files are, whether they may be loaded, and what they are.

A hub id becomes a folder of the hub's cache first; from there on everything is local. What is wrong
with a folder is said in a line and with the fix, before transformers meets it.
"""

from hashlib import blake2b
from pathlib import Path
from typing import Any

from llmos.syscalls.errors import E_MODEL

from ..modelfiles import is_path, read_config, read_shapes
from .fetch import fetch

_SLICE_BYTES = 1 << 16
_TOKENIZER = ("added_tokens", "merges", "special_tokens", "spiece", "tekken", "tokenizer", "vocab")
_NUM_SLICES = 64


def find_checkpoint(model: str) -> Path:
    """The folder of a model's files, fetched from the hub if `model` is an id. Raises E_MODEL."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        if is_path(model):
            raise E_MODEL(f"there is no folder {model}; fix: give a folder with a model's files")
        folder = fetch(model)
    _check_kind(folder, read_config(folder))
    read_shapes(folder)
    return folder


def _check_kind(folder: Path, config: dict[str, Any]) -> None:
    """Raises E_MODEL for a model that transformers does not know."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kind = config.get("model_type")
    if kind not in CONFIG_MAPPING_NAMES:
        reason = f"{folder / 'config.json'} cannot be used: transformers knows no model_type"
        reason += f" {kind!r:.60}"
        if config.get("auto_map"):
            reason += ", and code that comes with a model (auto_map) is never run"
        raise E_MODEL(f"{reason}; fix: take a model of a known type, or a newer transformers")


def compute_fingerprint(folder: Path, *facts: str) -> str:
    """A digest of the tokenizer, a dash, and one of the weights, the configuration and `facts`.

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
    return f"{_digest_tokenizer(folder)}-{digest.hexdigest()}"


def _digest_tokenizer(folder: Path) -> str:
    """Of all files that say which token is which text."""
    digest = blake2b(digest_size=8)
    for path in sorted(folder.iterdir()):
        if path.name.startswith(_TOKENIZER) and path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
