"""Fetches models that are on the hub alone, in a process of its own that a cancel ends."""

import subprocess
import sys
from pathlib import Path

import anyio

from llmos.syscalls.errors import E_MODEL

from .drivers.life import make_environment

_PROGRAM = "llmos.kernel.executor.fetch"


async def fetch_model(model: str, log: Path) -> None:
    """Bring a model's files into the hub's cache; tracebacks go to the log. Raises E_MODEL.

    What has come when it is cancelled stays, and is not fetched again.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as errors:
        ended = await anyio.run_process(
            [sys.executable, "-m", _PROGRAM, model],
            check=False,
            stdin=subprocess.DEVNULL,
            stderr=errors,
            env=make_environment(),
            start_new_session=True,
        )
    if ended.returncode:
        reason = ended.stdout.decode(errors="replace").strip().rpartition("\n")[2]
        raise E_MODEL(reason or f"{model} cannot be fetched; see {log}")
