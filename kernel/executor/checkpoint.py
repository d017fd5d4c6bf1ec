"""Where a model's files are, whether they may be loaded, and what they are.

Only safetensors weights are read: a pickle runs code when it is opened. A hub id becomes a folder
of the hub's cache first; from there on everything is local.
"""

import os
from hashlib import blake2b
from pathlib import Path

from llmos.syscalls.errors import E_MODEL

_WANTED = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
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
    if not any(folder.glob("*.safetensors")):
        raise E_MODEL(_explain_missing_weights(folder))
    return folder


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
