"""A model's folder as far as the standard library reads it: config.json and the weights' headers.

What is wrong with a folder is said here, in a line and with the fix, before an executor is started
for it. Only safetensors weights are taken: a pickle runs code when it is opened.
"""

import json
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from llmos.syscalls.errors import E_MODEL

FETCH = "fix: copy or download the folder's files again"
BATCH_BOUND_ROPE = ("dynamic", "longrope")  # rotations by the longest text that runs
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_INDEX = "model.safetensors.index.json"
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
_MAX_JSON_BYTES = 100 << 20  # safetensors' own bound of a header
_LENGTH = struct.Struct("<Q")
Shape = tuple[Annotated[int, Meta(ge=0)], ...]


class _Tensor(msgspec.Struct, frozen=True):
    """A tensor as a header describes it."""

    shape: Shape
    data_offsets: tuple[int, int]


_headers = msgspec.json.Decoder(dict[str, msgspec.Raw])
_tensors = msgspec.json.Decoder(_Tensor)


class ModelFiles(msgspec.Struct, frozen=True):
    """What a folder says of its model: the configuration, and every tensor's shape by name."""

    folder: Path
    config: dict[str, Any]
    shapes: dict[str, Shape]

    @property
    def num_parameters(self) -> int:
        """How many numbers the weights have."""
        return sum(map(math.prod, self.shapes.values()))


def find_folder(model: str, *, cache: Path | None = None) -> Path | None:
    """The folder of a model; of a hub id the one in the hub's cache, None if it was not fetched
    as a whole.

    `cache` is by default where the hub's own client keeps files. Raises E_MODEL for a path that
    leads nowhere.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if is_path(model):
        raise E_MODEL(f"there is no folder {model}; fix: give a folder with a model's files")
    try:
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError
    except ModuleNotFoundError:
        return None
    try:
        path = try_to_load_from_cache(model, "config.json", cache_dir=cache)
    except HFValidationError:
        reason = f"there is no folder {model}, and no model of the hub can have that name"
        raise E_MODEL(f"{reason}; fix: give a folder with a model's files") from None
    return Path(path).parent if isinstance(path, str) and _is_whole(Path(path).parent) else None


def _is_whole(folder: Path) -> bool:
    """Whether all weights are there: who fetched them may have been interrupted."""
    try:
        read_shapes(folder)
    except E_MODEL:
        return False
    return True


def is_path(model: str) -> bool:
    """Whether this can only be a folder, and no id of the hub."""
    return model.startswith(("/", ".", "~")) or model.count("/") > 1


def read_model_files(folder: Path) -> ModelFiles:
    """Everything that is known without loading. Raises E_MODEL with the fix."""
    return ModelFiles(folder, read_config(folder), read_shapes(folder))


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration; what it calls a size is one. Raises E_MODEL."""
    path = folder / "config.json"
    if not path.is_file():
        raise _explain_absence(folder)
    config = _read_object(path)
    for part in (config, find_text_config(config)):
        for name in _SIZES:
            size = part.get(name)
            if size is not None and not all(map(_is_size, size if type(size) is list else [size])):
                raise E_MODEL(f"{path} cannot be used: {name} is {size!r:.60}; {FETCH}")
    return config


def _explain_absence(folder: Path) -> E_MODEL:
    """What a folder without a configuration is, where its other files tell."""
    adapter = folder / "adapter_config.json"  # as peft saves one
    if not adapter.is_file():
        return E_MODEL(f"{folder} has no config.json; fix: give a folder with a model's files")
    base = _read_object(adapter).get("base_model_name_or_path")
    of = f" of {base!r:.200}" if base else ""
    fix = "fix: merge it into that model (peft's merge_and_unload) and give the result's folder"
    return E_MODEL(f"{folder} is an adapter{of}, not a model; {fix}")


def find_text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a configuration that is about text: all of it, or one of several."""
    inner = config.get("text_config")
    return inner if isinstance(inner, dict) else config


def _is_size(value: object) -> bool:
    return type(value) is int and 0 < value < _MAX_SIZE


def _read_object(path: Path) -> dict[str, Any]:
    """A file's JSON object. Raises E_MODEL."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise E_MODEL(f"{path} is larger than any such file; {FETCH}")
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise E_MODEL(f"{path} is not JSON: {str(error)[:100]}; {FETCH}") from None
    if not isinstance(value, dict):
        raise E_MODEL(f"{path} is no JSON object; {FETCH}")
    return value


def read_shapes(folder: Path) -> dict[str, Shape]:
    """Every tensor's shape. E_MODEL when weights are missing, cut short, or may run code."""
    index = folder / _INDEX
    paths = sorted(folder.glob("*.safetensors"))
    if index.is_file():
        named = _read_object(index).get("weight_map")
        if not isinstance(named, dict) or not all(isinstance(one, str) for one in named.values()):
            raise E_MODEL(f"{index} has no weight_map; {FETCH}")
        there = {path.name for path in paths}
        missing = sorted(set(named.values()) - there)
        if missing:
            num_files = f"{len(missing)} of {len(set(named.values()))} files with weights"
            raise E_MODEL(f"{folder} lacks {num_files}: {missing[0]}; {FETCH}")
    if not paths:
        raise E_MODEL(_explain_missing_weights(folder))
    return {name: shape for path in paths for name, shape in read_header(path)}


def read_header(path: Path) -> Iterator[tuple[str, Shape]]:
    """The tensors of a safetensors file: 8 bytes of length, then JSON.

    Raises E_MODEL unless the file is as long as its header says.
    """
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_LENGTH.size)
        header_bytes = _LENGTH.unpack(start)[0] if len(start) == _LENGTH.size else size_bytes
        if _LENGTH.size + header_bytes > size_bytes or header_bytes > _MAX_JSON_BYTES:
            raise E_MODEL(f"{path} is cut short, or no safetensors file; {FETCH}")
        header = file.read(header_bytes)
    tensors = _decode_header(path, header)
    ends = [tensor.data_offsets[1] for tensor in tensors.values()]
    wanted_bytes = _LENGTH.size + header_bytes + max(ends, default=0)
    if size_bytes < wanted_bytes:
        raise E_MODEL(f"{path} is cut short: {size_bytes} of {wanted_bytes} bytes; {FETCH}")
    for name, tensor in tensors.items():
        yield name, tensor.shape


def _decode_header(path: Path, header: bytes) -> Mapping[str, _Tensor]:
    try:
        parts = _headers.decode(header)
        return {name: _tensors.decode(raw) for name, raw in parts.items() if name[:2] != "__"}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise E_MODEL(f"{path} is no safetensors file; {FETCH}") from None


def _explain_missing_weights(folder: Path) -> str:
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if not pickles:
        return f"{folder} has no weights; fix: add its *.safetensors files"
    return (
        f"{folder} has its weights as a pickle ({pickles[0]}), which can run code when opened;"
        " fix: save the model with save_pretrained (safetensors) and give that folder"
    )
