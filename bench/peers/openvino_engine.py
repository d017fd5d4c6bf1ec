"""OpenVINO GenAI's continuous batching, with prefix caching and dynamic split-fuse.

Prompts are token ids; the pipeline's `step` runs all requests that are in flight, as its own
`generate` does. Settings: see README.md.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.peers.serving import Sessions, drive, serve

CACHE_GIGABYTES = 3


def convert(folder: Path) -> Path:
    """The model in OpenVINO's form, made by optimum-intel where there is none; weights in bf16."""
    target = folder / "openvino"
    if not target.is_dir():
        partial = folder / "openvino.partial"
        command = [sys.executable, "-m", "bench.peers.openvino_export", str(folder), str(partial)]
        subprocess.run(command, check=True)
        partial.rename(target)
    return target


class OpenVino:
    """A pipeline and the handles of what runs on it."""

    def load(self, options: dict[str, Any]) -> dict[str, Any]:
        """Convert if needed, compile."""
        folder = convert(Path(options["model"]))
        import openvino
        import openvino_genai

        self._genai, self._tensor = openvino_genai, openvino.Tensor
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = CACHE_GIGABYTES
        scheduler.enable_prefix_caching = True
        properties = {
            "INFERENCE_PRECISION_HINT": "bf16",
            "INFERENCE_NUM_THREADS": options["threads"],
        }
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            folder, scheduler, "CPU", properties
        )
        self._handles: dict[int, Any] = {}
        self._num_requests = 0
        settings = " ".join(scheduler.to_string().split())
        return {
            "version": openvino_genai.__version__,
            "settings": f"{properties}, {settings}",
        }

    def run(self, sessions: Sessions) -> dict[str, Any]:
        """Run a workload; each turn is a request."""
        return drive(self, sessions)

    def start(self, session: int, prompt: list[int], num_new: int) -> None:
        """Add a request with everything that the session has so far."""
        import numpy as np

        config = self._genai.GenerationConfig(
            max_new_tokens=num_new, eos_token_id=0, ignore_eos=True, do_sample=False
        )
        ids = self._tensor(np.array([prompt], np.int64))
        self._handles[session] = self._pipeline.add_request(self._num_requests, ids, config)
        self._num_requests += 1

    def step(self) -> list[tuple[int, list[int]]]:
        """One step of the pipeline; what each handle has to read."""
        self._pipeline.step()
        return [
            (session, list(output.generated_ids))
            for session, handle in self._handles.items()
            if handle.can_read()
            for output in handle.read().values()
        ]


if __name__ == "__main__":
    serve(OpenVino())
