"""Fetches a model from the hub: `python -m llmos.kernel.executor.fetch HUB-ID`.

The kernel runs it before it looks for room, so that no weights are loaded that do not fit. What is
there already is not fetched again. It ends with 0, or with 1 and the reason in a line of standard
output.
"""

import os
import sys
from pathlib import Path

from llmos.syscalls.errors import E_MODEL

from ..modelfiles import read_model_files

_WANTED = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]


def fetch(model: str) -> Path:
    """The folder of the hub's cache with a model's files. Raises E_MODEL."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ModuleNotFoundError as error:
        reason = f"{error.name} is not installed; fix: pip install 'llmos[local]'"
        raise E_MODEL(reason) from None
    try:
        return Path(snapshot_download(model, allow_patterns=_WANTED))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().partition("\n")[0][:200] or type(error).__name__
        raise E_MODEL(
            f"cannot reach the model hub for {model}: {reason}; fix: give a folder"
        ) from None


def main(model: str) -> int:
    """Fetch, and see whether what came is a model."""
    try:
        read_model_files(fetch(model))
    except E_MODEL as error:
        sys.stdout.write(error.message)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
