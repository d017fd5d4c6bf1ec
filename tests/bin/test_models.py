"""What is known of models without loading one."""

import json
import struct
from pathlib import Path

from llmos.bin.models import count_parameters, list_models


def test_parameters_are_counted_from_the_header(tmp_path: Path) -> None:
    header = {"__metadata__": {"format": "pt"}, "a": {"shape": [2, 3]}, "b": {"shape": []}}
    body = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(body)) + body)

    assert count_parameters(tmp_path / "model.safetensors") == 7


def test_the_bundled_model_is_called_a_demonstration() -> None:
    demo, echo = list_models()

    assert (demo.name, echo.name, echo.num_parameters) == ("demo", "echo", 0)
    assert demo.description.startswith("demonstration model that comes with llmos")
