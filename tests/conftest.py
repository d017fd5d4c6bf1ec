"""What every test may use.

Where triton is installed and no GPU is there, its ops run through its interpreter, which has to be
said before anything imports triton.
"""

import os
from pathlib import Path

import pytest

if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
