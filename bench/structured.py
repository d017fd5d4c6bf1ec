"""What structured output costs: sixteen streams with a JSON schema against the same without.

`bin/bench structured [--quick] [--json]`. Rounds with and without take turns in one run, so that
the machine's moods fall on both; the ratio of their medians of tokens per second is what counts.
Only steps in which all sixteen decode are timed. Runs the bundled model, and the bf16 model
of Qwen3-0.6B's shape where the executor's bench has made it before.
"""

import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from bench.output import make_parser, show
from bench.random_model import LARGE
from llmos.kernel.executor.engine import Engine
from llmos.kernel.executor.protocol import Done, Generate, Load
from llmos.kernel.models import DEMO_FOLDER
from llmos.syscalls.types import Grammar, Message, Sampling

NUM_STREAMS = 16
BEGINNING = '{"items":'
# Items enough that no stream ends before its tokens are used up.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "items": {
            "type": "array",
            "minItems": 1000,
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "maxLength": 12},
                    "size": {"type": "integer", "minimum": 0, "maximum": 9999},
                    "kind": {"enum": ["small", "large", None]},
                    "tags": {"type": "array", "items": {"type": "string", "maxLength": 5}},
                },
                "required": ["name", "size", "kind", "tags"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["items"],
    "additionalProperties": False,
}


def run(engine: Engine, grammar: Grammar | None, num_new: int, seed: int) -> float:
    """Sixteen streams of up to `num_new` tokens: tokens per second while all of them decode."""
    texts: list[str] = []
    for number in range(NUM_STREAMS):
        sampling = Sampling(max_tokens=num_new, temperature=1.0, seed=seed + number, top_k=50)
        message = Message("user", f"{number} list what there is")
        engine.submit(Generate(number, (message,), sampling=sampling, grammar=grammar))
    while engine.collect_stats().num_running < NUM_STREAMS:
        engine.step()
    engine.step()
    started, num_steps = time.perf_counter(), 0
    while engine.collect_stats().num_running == NUM_STREAMS:
        ended, num_steps = time.perf_counter(), num_steps + 1
        texts += [one.text for one in engine.step() if isinstance(one, Done)]
    while engine.has_work:
        texts += [one.text for one in engine.step() if isinstance(one, Done)]
    if grammar is not None:
        assert all(BEGINNING.startswith(one[: len(BEGINNING)]) for one in texts), texts[0]
    return (num_steps - 1) * NUM_STREAMS / (ended - started)


def measure(folder: Path, num_new: int, num_rounds: int) -> dict[str, float]:
    """Tokens per second with and without, and their ratio."""
    engine = Engine(Load(str(folder), device="cpu"))
    engine._ends = frozenset()  # no stream ends before the others
    grammar = Grammar("json_schema", json.dumps(SCHEMA))
    for warm_up in (None, grammar):
        run(engine, warm_up, 8, 0)
    plain, constrained = [], []
    for number in range(num_rounds):
        plain.append(run(engine, None, num_new, number))
        constrained.append(run(engine, grammar, num_new, number))
    ratios = [one / other for one, other in zip(constrained, plain, strict=True)]
    return {
        "plain_tokens_per_second": statistics.median(plain),
        "constrained_tokens_per_second": statistics.median(constrained),
        "ratio": statistics.median(ratios),
    }


def main() -> None:
    """Measure and print."""
    options = make_parser("structured", quick="fewer and shorter rounds").parse_args()
    results: dict[str, float] = {"threads": float(torch.get_num_threads())}
    num_new, num_rounds = (64, 7) if options.quick else (128, 11)
    small = measure(DEMO_FOLDER, num_new, num_rounds)
    results |= {f"bundled_{name}": value for name, value in small.items()}
    if LARGE.is_dir():
        num_new, num_rounds = (8, 2) if options.quick else (64, 5)
        large = measure(LARGE, num_new, num_rounds)
        results |= {f"large_{name}": value for name, value in large.items()}
    title = f"{NUM_STREAMS} streams with a JSON schema and without"
    show(results, title, as_json=options.json)


if __name__ == "__main__":
    main()
