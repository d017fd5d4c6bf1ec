"""How much memory a step takes at its peak, found out by running the largest one.

Run before there are pages, so that these may have what is left; what a step compiles or loads on
first use is there afterwards.
"""

import gc

import numpy as np
import torch

from llmos.syscalls.errors import E_MODEL

from .attention import Chunk, Step, using
from .model import Model
from .pools import make_pool
from .sampler import sample
from .sequence import ResolvedSampling, Sequence


def measure_step_bytes(model: Model, *, num_tokens: int, num_sequences: int, page_size: int) -> int:
    """What the largest step takes beyond the weights. Raises E_MODEL if there is no memory for it.

    0 where memory is not the device's own, or not counted.
    """
    if model.device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(model.device)
    before = torch.cuda.memory_allocated(model.device)
    try:
        run_largest_step(
            model, num_tokens=num_tokens, num_sequences=num_sequences, page_size=page_size
        )
    except torch.OutOfMemoryError:
        what = f"a step of {num_tokens} tokens"
        raise E_MODEL(f"no memory for {what} on {model.device} beside the weights") from None
    peak = torch.cuda.max_memory_allocated(model.device) - before
    gc.collect()
    torch.cuda.empty_cache()
    return peak


@torch.inference_mode()
def run_largest_step(
    model: Model, *, num_tokens: int, num_sequences: int, page_size: int
) -> list[int | None]:
    """One prefill of `num_tokens` whose logits are all read, then `num_sequences` draws."""
    num_tokens = min(num_tokens, model.max_model_len)
    num_pages = -(-num_tokens // page_size)
    pool = make_pool(model, num_pages=num_pages, page_size=page_size)
    places = np.arange(num_tokens)
    chunk = Chunk(0, num_tokens, 0, np.arange(num_pages, dtype=np.int32))
    rows = torch.from_numpy(places).to(model.device)
    with using(Step(pool, places, 0, [chunk])):
        logits = model.compute_logits(torch.zeros_like(rows), rows, rows)
    sampling = ResolvedSampling(max_tokens=1, temperature=1.0, top_p=0.9)
    some = logits[torch.arange(num_sequences, device=model.device) % num_tokens]
    return sample(some, [Sequence(n, [0], sampling, b"") for n in range(num_sequences)])
