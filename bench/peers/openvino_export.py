"""Converts a checkpoint to OpenVINO's form by optimum-intel: `... openvino_export FROM TO`.

A program of its own, so that torch is gone from memory when the pipeline runs.
"""

import sys
from pathlib import Path


def export(source: Path, target: Path) -> None:
    """The model with a cache of its own (stateful), weights in bf16, and its tokenizer."""
    from optimum.exporters.openvino import main_export

    main_export(
        str(source), output=target, task="text-generation-with-past", library_name="transformers"
    )


if __name__ == "__main__":
    export(Path(sys.argv[1]), Path(sys.argv[2]))
