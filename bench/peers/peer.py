"""An engine's process, as the benchmark sees it: ask one thing, wait for the answer."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.peers.catalogue import HERE, Engine
from bench.peers.machine import Meter
from bench.peers.workloads import Workload, to_json

ROOT = HERE.parents[1]


class EngineFailed(Exception):
    """The engine's process ended without an answer; the message has what it said last."""


class Peer:
    """A running engine."""

    def __init__(self, engine: Engine, process: "subprocess.Popen[str]", log: Path) -> None:
        self.engine = engine
        self._process = process
        self._log = log

    def load(self, model: Path, num_threads: int) -> dict[str, Any]:
        """Load a model; what the engine says of its version and settings."""
        return self._ask({"load": {"model": str(model), "threads": num_threads}})

    def run(self, workload: Workload) -> dict[str, Any]:
        """Run a workload; the answer is that of `serving.drive`, and `others`: processors that
        were busy with something else meanwhile."""
        meter = Meter(self._process.pid)
        return self._ask({"run": to_json(workload)}) | {"others": meter.measure()}

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        with suppress(BrokenPipeError):  # the missing answer says so
            stdin.write(json.dumps(request) + "\n")
            stdin.flush()
        line = stdout.readline()
        if not line:
            last = self._log.read_text(errors="replace").strip()[-2000:]
            raise EngineFailed(f"{self.engine.title} ended without an answer:\n{last}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def started(engine: Engine, scratch: Path) -> Iterator[Peer]:
    """Run the engine's script in its environment; its prints go to a file in `scratch`."""
    log = scratch / f"{engine.name}.log"
    variables = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
    with log.open("w") as errors:
        process = subprocess.Popen(
            [engine.python, "-m", engine.module],
            cwd=ROOT,
            env=os.environ | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        yield Peer(engine, process, log)
    finally:
        process.kill()
        process.communicate()
