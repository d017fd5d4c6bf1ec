"""transformers' `generate`: every turn of all sessions is one batch of equal lengths.

Sessions go in lock-step, as `generate` has no continuous batching; the cache of one turn is handed
to the next. Nothing is padded: all prompts of a workload are equally long.
"""

import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, GenerationConfig

from bench.peers.serving import Sessions, serve


class Clock:
    """A stopping criterion that never stops and keeps the time after every step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool)


class Generate:
    """The network as transformers loads it."""

    def load(self, options: dict[str, Any]) -> dict[str, Any]:
        """Load in bf16."""
        torch.set_num_threads(options["threads"])
        self._network: Any = AutoModelForCausalLM.from_pretrained(
            Path(options["model"]), dtype=torch.bfloat16
        ).eval()
        self._network.generation_config = GenerationConfig()
        attention = self._network.config._attn_implementation
        return {
            "version": f"{transformers.__version__}, torch {torch.__version__}",
            "settings": f"eager mode, attention {attention}",
        }

    def run(self, sessions: Sessions) -> dict[str, Any]:
        """Run a workload, one batch a turn; the answer is that of `serving.drive`."""
        begun = time.perf_counter()
        turns: list[list[dict[str, Any]]] = [[] for _ in sessions]
        ids = torch.empty(len(sessions), 0, dtype=torch.long)
        cache = None
        for number in range(len(sessions[0])):
            added = torch.tensor([session[number]["added"] for session in sessions])
            prompts = torch.cat([ids, added], 1)
            clock = Clock()
            answer = self._network.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                generation_config=_make_config(sessions[0][number]["num_new"]),
                stopping_criteria=[clock],
                past_key_values=cache,
            )
            ids, cache = answer.sequences, answer.past_key_values
            for row, session in zip(ids[:, prompts.shape[1] :].tolist(), turns, strict=True):
                first, last = clock.times[0] - begun, clock.times[-1] - begun
                session.append({"tokens": row, "first": first, "last": last})
        return {"seconds": time.perf_counter() - begun, "turns": turns}


def _make_config(num_new: int) -> GenerationConfig:
    """Greedy, exactly `num_new` tokens: without an end token there is nothing to end at."""
    return GenerationConfig(
        max_new_tokens=num_new, do_sample=False, return_dict_in_generate=True, use_cache=True
    )


if __name__ == "__main__":
    serve(Generate())
