"""Weights in int8 beside bfloat16: what decoding gains, what the memory does, and what is lost.

`bin/bench int8 [--quick] [--json]`. On the bundled model and on Qwen3-0.6B's shape with random
weights: decode steps at 1 and 16 streams, in turns in one run, so that what else the machine does
falls on both; the bytes of the weights; how far the distributions of the next token are from those
of float32 over a fixed text; and the bundled model's accuracy by `bench/bundled_model.py`'s cases.
"""

import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from bench.bundled_model import DEMO, MAX_NEW_TOKENS, Case, is_right, make_cases
from bench.gpu import compute_step_seconds, make_prompts
from bench.output import make_parser, show
from bench.peers.llmos_engine import ANY, GivenTokens
from bench.random_model import find_large_model
from bench.stepping import Loop
from llmos.kernel.executor.attention import Chunk, Step, using
from llmos.kernel.executor.engine import PAGE_SIZE, Engine
from llmos.kernel.executor.model import Model, load_model
from llmos.kernel.executor.pools import make_pool
from llmos.kernel.executor.protocol import Done, Generate, Load
from llmos.syscalls.types import Sampling

BOTH = ("bfloat16", "int8")
STREAMS = (1, 16)
NUM_PROMPT = 32
CHUNK_TOKENS = 64
TEXT_SEED = 30_000
Results = dict[str, float]


def load(folder: Path, dtype: str) -> Model:
    """The model on the CPU."""
    return load_model(Load(str(folder), device="cpu", dtype=dtype))


def measure_decode(models: dict[str, Model], num_new: int, num_rounds: int) -> Results:
    """Tokens per second by streams and precision, medians of rounds that take turns."""
    results: Results = {}
    for num_streams in STREAMS:
        rates: dict[str, list[float]] = {dtype: [] for dtype in models}
        loops = {dtype: make_loop(model, num_streams, num_new) for dtype, model in models.items()}
        for number in range(num_rounds + 1):  # the first is to warm up
            for dtype, loop in loops.items():
                vocab_size = models[dtype].network.config.vocab_size
                prompts = make_prompts(num_streams, NUM_PROMPT, vocab_size)
                answers = loop.generate(prompts, num_new)
                seconds = compute_step_seconds([one.timestamps for one in answers])
                if number:
                    rates[dtype].append(num_streams / seconds)
        for dtype, loop in loops.items():
            results[f"{dtype}_tokens_per_second_{num_streams}"] = statistics.median(rates[dtype])
            loop.close()
        ratios = [one / other for other, one in zip(*map(rates.get, BOTH), strict=True)]
        results[f"int8_vs_bfloat16_{num_streams}"] = statistics.median(ratios)
    return results


def make_loop(model: Model, num_streams: int, num_new: int) -> Loop:
    """Room for all streams at once."""
    num_pages = num_streams * -(-(NUM_PROMPT + num_new) // PAGE_SIZE) + 1
    return Loop(
        model,
        num_pages=num_pages,
        max_running=num_streams,
        max_step_tokens=num_streams * NUM_PROMPT,
    )


def count_weight_bytes(model: Model) -> int:
    """All tensors of a network; those that share memory count once."""
    found = {}
    for part in model.network.modules():
        for one in (*vars(part).values(), *part._parameters.values(), *part._buffers.values()):
            if isinstance(one, torch.Tensor):
                found[one.untyped_storage().data_ptr()] = one.numel() * one.element_size()
    return sum(found.values())


@torch.inference_mode()
def compute_logprobs(model: Model, tokens: list[int]) -> Iterator[torch.Tensor]:
    """[tokens, vocabulary] of each next token, some tokens at a time."""
    pool = make_pool(model, num_pages=-(-len(tokens) // PAGE_SIZE), page_size=PAGE_SIZE)
    pages = np.arange(pool.num_pages, dtype=np.int32)
    for start in range(0, len(tokens), CHUNK_TOKENS):
        places = np.arange(start, min(start + CHUNK_TOKENS, len(tokens)))
        step = Step(pool, places, 0, [Chunk(0, len(places), start, pages)])
        ids = torch.tensor(tokens[start : start + CHUNK_TOKENS])
        with using(step):
            logits = model.compute_logits(ids, torch.from_numpy(places), torch.arange(len(ids)))
        yield logits.float().log_softmax(-1)


def measure_distance(exact: Model, models: dict[str, Model], text: list[list[int]]) -> Results:
    """Mean KL divergence from float32 in nats, and how often the likeliest token is the same."""
    sums = {dtype: torch.zeros(2) for dtype in models}
    for tokens in text:
        found = {dtype: compute_logprobs(model, tokens) for dtype, model in models.items()}
        for wanted in compute_logprobs(exact, tokens):
            for dtype, logprobs in found.items():
                other = next(logprobs)
                divergence = (wanted.exp() * (wanted - other)).sum()
                num_agreed = (wanted.argmax(-1) == other.argmax(-1)).sum()
                sums[dtype] += torch.stack([divergence, num_agreed])
    num_tokens = sum(map(len, text))
    results: Results = {"text_tokens": num_tokens}
    for dtype, both in sums.items():
        means = (both / num_tokens).tolist()
        results[f"{dtype}_kl_divergence"], results[f"{dtype}_top1_agreement"] = means
    return results


def encode(tokenizer: PreTrainedTokenizerFast, case: Case) -> list[int]:
    """A case's prompt."""
    ids: list[int] = tokenizer.apply_chat_template(
        case.prompt, tools=case.tools or None, add_generation_prompt=True, return_dict=False
    )
    return ids


def measure_accuracy(dtype: str, cases: list[Case]) -> float:
    """The share of the bundled model's right answers, greedy, on the engine."""
    engine = Engine(Load(str(DEMO), device="cpu", dtype=dtype))
    tokenizer = engine._model.tokenizer
    engine._chat = chat = GivenTokens()  # type: ignore[assignment]
    for number, case in enumerate(cases):
        chat.tokens = encode(tokenizer, case)
        sampling = Sampling(max_tokens=MAX_NEW_TOKENS, temperature=0.0)
        engine.submit(Generate(number, (ANY,), sampling=sampling))
    num_right = 0
    while engine.has_work:
        for one in engine.step():
            if isinstance(one, Done):
                reply = tokenizer.decode(one.tokens, skip_special_tokens=True)
                num_right += is_right(cases[one.id].wanted, reply)
    engine.close()
    return num_right / len(cases)


def measure_model(folder: Path, text: list[list[int]], num_new: int, num_rounds: int) -> Results:
    """All of one model but its accuracy."""
    models = {dtype: load(folder, dtype) for dtype in BOTH}
    if not models["int8"].is_native:
        raise RuntimeError("the compiled kernels do not run here")
    results = measure_decode(models, num_new, num_rounds)
    for dtype, model in models.items():
        results[f"{dtype}_weight_bytes"] = count_weight_bytes(model)
    return results | measure_distance(load(folder, "float32"), models, text)


def make_text(num_dialogues: int) -> list[list[int]]:
    """Held-out dialogues as the bundled model reads them, up to their last answer."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(DEMO)
    return [encode(tokenizer, case) for case in make_cases(num_dialogues, seed=TEXT_SEED)]


def main() -> None:
    """Measure and print."""
    options = make_parser("int8", "the bundled model alone, few rounds").parse_args()
    results: dict[str, Results] = {}
    if not options.quick:  # first: a small model takes a thread for the rest of the process
        folder = find_large_model()
        text = make_prompts(2, 192, 151_936)
        results["qwen3_06b_shape"] = measure_model(folder, text, 24, 7)
    num_new, num_rounds, num_dialogues = (32, 3, 1) if options.quick else (128, 11, 4)
    bundled = measure_model(DEMO, make_text(num_dialogues), num_new, num_rounds)
    cases = make_cases(2 if options.quick else 40)
    bundled["cases"] = len(cases)
    for dtype in ("float32", *BOTH):
        bundled[f"{dtype}_accuracy"] = measure_accuracy(dtype, cases)
    results["bundled"] = bundled
    flat = {f"{model}_{name}": one for model, part in results.items() for name, one in part.items()}
    show(flat, "weights in int8 and in bfloat16, CPU", as_json=options.json)


if __name__ == "__main__":
    main()
