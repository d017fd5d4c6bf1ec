"""Our engine beside transformers' generate on the bundled model: a minute, no peers.

Each in the precision that is its fastest on a CPU: the engine in the one that it picks, `generate`
in float32, which is several times as fast there as its bfloat16.

Sixteen greedy generations at once on the engine, the same sixteen one after another with
`model.generate`, and as one left-padded batch; then the time to the first token with and without a
known prefix, and what a step costs beside the forward pass and the sampling.
"""

import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmos.kernel.executor.engine import Engine
from llmos.kernel.executor.protocol import Done, Generate, Load
from llmos.syscalls.types import Message, Sampling

NUM_SEQUENCES = 16
NUM_NEW = 64
NUM_STEP_SEQUENCES = 64
NUM_STEPS = 300
NUM_WARM_UP = 8  # steps, after which all prompts are computed
MS = 1000.0


def make_prompts() -> list[str]:
    """Sixteen prompts of different lengths that share no beginning."""
    return [
        f"{number} " + "the cat sat on the mat and " * (6 + number % 4)
        for number in range(NUM_SEQUENCES)
    ]


def run_engine(engine: Engine, prompts: list[str], num_new: int) -> tuple[int, float]:
    """All prompts at once. Returns (sampled tokens, seconds)."""
    sampling = Sampling(max_tokens=num_new, temperature=0.0)
    started = time.perf_counter()
    for number, prompt in enumerate(prompts):
        engine.submit(Generate(number, (Message("user", prompt),), sampling=sampling))
    num_tokens = 0
    while engine.has_work:
        for output in engine.step():
            if isinstance(output, Done):
                num_tokens += output.usage.completion_tokens
    return num_tokens, time.perf_counter() - started


class Peer:
    """The same model under transformers' generate, with as many threads as the engine has."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token

    def run(self, prompts: list[str], num_new: int) -> tuple[int, float]:
        """The prompts as one batch. Returns (sampled tokens, seconds)."""
        texts = [
            self._tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
            for prompt in prompts
        ]
        started = time.perf_counter()
        inputs = self._tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        inputs.pop("token_type_ids", None)
        output = self._model.generate(**inputs, max_new_tokens=num_new, do_sample=False)
        seconds = time.perf_counter() - started
        new = output[:, inputs["input_ids"].shape[1] :]
        ends = new == self._tokenizer.eos_token_id
        num_tokens = int((~ends).sum() + ends.any(1).sum())
        return num_tokens, seconds

    def run_in_sequence(self, prompts: list[str], num_new: int) -> tuple[int, float]:
        """The prompts one after another. Returns (sampled tokens, seconds)."""
        results = [self.run([prompt], num_new) for prompt in prompts]
        return sum(tokens for tokens, _ in results), sum(seconds for _, seconds in results)


def measure_first_token(engine: Engine, prompt: str) -> float:
    """Seconds from the request to its first sampled token."""
    return run_engine(engine, [prompt], 1)[1]


def measure_rate(run: Callable[[], tuple[int, float]], num_rounds: int = 2) -> float:
    """Tokens per second, the median of the rounds."""
    rates = []
    for _ in range(num_rounds):
        num_tokens, seconds = run()
        rates.append(num_tokens / seconds)
    return statistics.median(rates)


def measure(folder: Path) -> dict[str, float]:
    """Every number of this bench but the step's, by name."""
    engine, peer = Engine(Load(str(folder), device="cpu")), Peer(folder)
    prompts = make_prompts()
    run_engine(engine, prompts, 4)
    peer.run(prompts[:2], 4)
    ours = measure_rate(lambda: run_engine(engine, prompts, NUM_NEW))
    alone = measure_rate(lambda: run_engine(engine, prompts[:1], NUM_NEW))
    sequence = measure_rate(lambda: peer.run_in_sequence(prompts, NUM_NEW), num_rounds=1)
    padded = measure_rate(lambda: peer.run(prompts, NUM_NEW))
    cold, warm = [], []
    for number in range(5):
        long = f"{number} turn: " + "one two three four five six seven " * 30
        cold.append(measure_first_token(engine, long))
        warm.append(measure_first_token(engine, long))
    return {
        "engine_16_tokens_per_second": ours,
        "engine_1_tokens_per_second": alone,
        "generate_sequential_tokens_per_second": sequence,
        "generate_padded_tokens_per_second": padded,
        "speedup_over_sequential": ours / sequence,
        "speedup_over_padded": ours / padded,
        "first_token_cold_seconds": statistics.median(cold),
        "first_token_prefix_seconds": statistics.median(warm),
        "prefix_speedup": statistics.median(cold) / statistics.median(warm),
        "threads": float(torch.get_num_threads()),
    }


def start_decoding(folder: Path) -> Engine:
    """An engine with 64 generations, their prompts computed, that do not end by themselves."""
    engine = Engine(Load(str(folder), device="cpu"))
    engine._ends = frozenset()
    sampling = Sampling(max_tokens=2 * NUM_STEPS, temperature=0.0, stop=("<never>",))
    for number in range(NUM_STEP_SEQUENCES):
        message = Message("user", f"{number}: tell me about the cat on the mat")
        engine.submit(Generate(number, (message,), sampling=sampling))
    while engine.collect_stats().num_tokens.get("decode", 0) < NUM_STEP_SEQUENCES * NUM_WARM_UP:
        engine.step()
    return engine


def count_seconds(engine: Engine) -> float:
    """Seconds that the engine has spent on forward passes and sampling so far."""
    seconds = engine.meter.seconds
    return seconds["forward"] + seconds["sample"]


def measure_step_overhead(folder: Path) -> dict[str, float]:
    """Milliseconds of a step, and how many of them are overhead: medians of NUM_STEPS steps.

    Counted are steps in which 64 sequences decode a token each and no prompt is computed. Overhead
    is all of Engine.step but the engine's phases `forward` and `sample`: planning, packing the
    batch, detokenizing, a stop string to look for, the events. What stands around the draw itself
    in `sample` is not counted.
    """
    engine = start_decoding(folder)
    before, whole, besides = engine.collect_stats(), list[float](), list[float]()
    for _ in range(NUM_STEPS):
        in_parts, begun = count_seconds(engine), time.perf_counter()
        engine.step()
        whole.append(time.perf_counter() - begun)
        besides.append(whole[-1] - (count_seconds(engine) - in_parts))
    grown = Counter(engine.collect_stats().num_tokens) - Counter(before.num_tokens)
    engine.close()
    if grown != {"decode": NUM_STEPS * NUM_STEP_SEQUENCES}:
        raise RuntimeError(f"{NUM_STEP_SEQUENCES} sequences were to decode, and no more: {grown}")
    return {
        "step_ms": statistics.median(whole) * MS,
        "step_overhead_ms": statistics.median(besides) * MS,
    }
