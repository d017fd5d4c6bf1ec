"""The executor against transformers' own generate: ratios, taken in one run on one machine.

`python -m bench.executor [--quick] [--json]`. Sixteen greedy generations at once on the engine,
the same sixteen one after another with `model.generate`, and as one left-padded batch; then the
time to the first token with and without a known prefix. Uses the bundled model, or a random one of
its shape where there is none. With --json the last line is one flat JSON object.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config

from llmos.kernel.executor.engine import Engine
from llmos.kernel.executor.protocol import Done, Generate, Load
from llmos.syscalls.types import Message, Sampling

BUNDLED = Path(__file__).resolve().parent.parent / "models" / "demo"
NUM_SEQUENCES = 16
VOCABULARY = 4096
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}<|im_start|>assistant\n"
)


def make_random_model(folder: Path) -> None:
    """Save a random Qwen3 of the bundled model's shape, with a byte-level tokenizer."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=1,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        special_tokens=["<|im_start|>", "<|im_end|>"], initial_alphabet=alphabet
    )
    inner.train_from_iterator([], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)


def make_prompts(num_words: int) -> list[str]:
    """Sixteen prompts of different lengths that share no beginning."""
    return [
        f"{number} " + "the cat sat on the mat and " * (num_words + number % 4)
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


def measure_rate(run: Callable[[], tuple[int, float]], num_rounds: int) -> float:
    """Tokens per second, the median of the rounds."""
    rates = []
    for _ in range(num_rounds):
        num_tokens, seconds = run()
        rates.append(num_tokens / seconds)
    return statistics.median(rates)


def measure(folder: Path, *, is_quick: bool) -> dict[str, float]:
    """Every number of this bench, by name."""
    num_new, num_rounds, num_words = (64, 2, 6) if is_quick else (128, 5, 12)
    engine, peer = Engine(Load(str(folder), device="cpu")), Peer(folder)
    prompts = make_prompts(num_words)
    run_engine(engine, prompts, 4)
    peer.run(prompts[:2], 4)
    ours = measure_rate(lambda: run_engine(engine, prompts, num_new), num_rounds)
    alone = measure_rate(lambda: run_engine(engine, prompts[:1], num_new), num_rounds)
    sequence = measure_rate(lambda: peer.run_in_sequence(prompts, num_new), 1 + (not is_quick))
    padded = measure_rate(lambda: peer.run(prompts, num_new), num_rounds)
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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.executor")
    parser.add_argument("--quick", action="store_true", help="about half a minute")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        has_bundled = any(BUNDLED.glob("*.safetensors"))
        folder = BUNDLED if has_bundled else Path(scratch)
        if not has_bundled:
            make_random_model(folder)
        results = measure(folder, is_quick=options.quick)
    title = f"{NUM_SEQUENCES} generations, {'bundled' if has_bundled else 'random'} model, CPU"
    table = Table("what", "value", title=title)
    for name, value in results.items():
        table.add_row(name.replace("_", " "), f"{value:,.4g}")
    Console().print(table)
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
