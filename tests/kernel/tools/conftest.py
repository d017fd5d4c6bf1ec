"""Fixtures of the tools' tests: a context whose process may do everything."""

from pathlib import Path

import pytest

from llmos.kernel.capability import Capabilities, FilesRule
from llmos.kernel.clock import VirtualClock
from llmos.kernel.tools.registry import ToolContext
from llmos.kernel.workspace import Workspace


@pytest.fixture
def context(tmp_path: Path) -> ToolContext:
    files = FilesRule((".",), (".",))
    return ToolContext(Workspace(tmp_path), VirtualClock(), Capabilities(files=files))
