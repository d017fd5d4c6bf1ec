"""Our engine, driven as the peers are: a process of its own that is given token ids."""

import os
import platform
from typing import Any

import llmos
from bench.peers.serving import Sessions, drive, serve
from llmos.kernel.executor.allocator import keep_freed_memory
from llmos.kernel.executor.protocol import Done, Generate, Load, Token
from llmos.kernel.executor.worker import ENVIRONMENT
from llmos.syscalls.types import Message, Sampling

NUM_PAGES = 1600
ANY = Message("user", "-")


class GivenTokens:
    """Stands where the chat template is: the prompt's token ids are given."""

    def __init__(self) -> None:
        self.tokens: list[int] = []

    def encode(self, messages: Any, tools: Any) -> list[int]:
        """A copy, as the sequence grows by the answer."""
        return list(self.tokens)


class Llmos:
    """An engine; each turn is a generation."""

    def load(self, options: dict[str, Any]) -> dict[str, Any]:
        """Load in bf16 on the CPU, in an executor's environment, which torch reads when loaded."""
        os.environ.update(ENVIRONMENT)
        import torch

        from llmos.kernel.executor.engine import Engine

        torch.set_num_threads(options["threads"])
        spec = Load(options["model"], device="cpu", dtype="bfloat16")
        self._engine = Engine(spec, num_pages=NUM_PAGES)
        keep_freed_memory()
        self._engine._chat = self._chat = GivenTokens()  # type: ignore[assignment]
        self._sessions: dict[int, int] = {}
        self._num_requests = 0
        return {
            "version": f"{llmos.__version__}, torch {torch.__version__}",
            "settings": f"{NUM_PAGES} pages of {self._engine.loaded.page_size} tokens, "
            f"Python {platform.python_version()}",
        }

    def run(self, sessions: Sessions) -> dict[str, Any]:
        """Run a workload."""
        before = self._engine.collect_stats()
        answer = drive(self, sessions)
        after = self._engine.collect_stats()
        cached = after.num_cached_tokens - before.num_cached_tokens
        return answer | {"num_cached": cached, "num_steps": after.num_steps - before.num_steps}

    def start(self, session: int, prompt: list[int], num_new: int) -> None:
        """Submit a generation for everything that the session has so far."""
        self._num_requests += 1
        self._sessions[self._num_requests] = session
        sampling = Sampling(max_tokens=num_new, temperature=0.0)
        self._chat.tokens = prompt
        self._engine.submit(Generate(self._num_requests, (ANY,), sampling=sampling))

    def step(self) -> list[tuple[int, list[int]]]:
        """One step of the engine."""
        fresh = []
        for output in self._engine.step():
            if isinstance(output, Token):
                fresh.append((self._sessions[output.id], list(output.tokens)))
            elif not isinstance(output, Done) or output.finish_reason != "length":
                raise RuntimeError(f"a generation did not run to its length: {output}")
        return fresh


if __name__ == "__main__":
    serve(Llmos())
