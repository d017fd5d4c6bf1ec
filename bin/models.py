"""What `llmos model` knows of models without loading one."""

import json
import math
import struct
from pathlib import Path

import msgspec

from llmos.kernel.models import DEMO_FOLDER, DESCRIPTIONS

MAX_HEADER_BYTES = 100 << 20
_LENGTH = struct.Struct("<Q")


class ModelEntry(msgspec.Struct, frozen=True):
    """A model that comes with llmos. `num_parameters` is 0 when it has no weights."""

    name: str
    description: str
    num_parameters: int


def list_models() -> list[ModelEntry]:
    """The models that need no path; one whose weights are not there says so."""
    entries = [ModelEntry("echo", DESCRIPTIONS["echo"], 0)]
    weights = sorted(DEMO_FOLDER.glob("*.safetensors"))
    num_parameters = sum(map(count_parameters, weights))
    size = f"{num_parameters / 1e6:.1f} M parameters" if weights else "missing in this copy"
    text = f"demonstration model that comes with llmos, {size}"
    return [ModelEntry("demo", text, num_parameters), *entries]


def count_parameters(path: Path) -> int:
    """The number of parameters in a safetensors file, from its header: 8 bytes of length, JSON."""
    with path.open("rb") as file:
        (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
        header = json.loads(file.read(min(length, MAX_HEADER_BYTES)))
    return sum(math.prod(it["shape"]) for name, it in header.items() if name != "__metadata__")
