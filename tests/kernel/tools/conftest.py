"""Fixtures of the tools' tests: a context whose process may do everything."""

from pathlib import Path

import pytest

from llmos.kernel.capability import Capabilities, FilesRule
from llmos.kernel.clock import VirtualClock
from llmos.kernel.machine import Machine
from llmos.kernel.tools.tool import ToolContext
from llmos.kernel.workspace import Workspace


@pytest.fixture
def context(machine: Machine, tmp_path: Path) -> ToolContext:
    folder = tmp_path / "workspace"
    folder.mkdir()
    files = FilesRule((".",), (".",))
    return ToolContext(
        Workspace(folder),
        VirtualClock(),
        Capabilities(files=files),
        machine.memory,
        "local",
        1,
        "key",
    )
