"""Decode and prefill on a GPU, as shares of what its memory and its matrix units give.

`bin/bench gpu [--quick] [--json]`. Random models of Qwen3-0.6B's and Qwen3-8B's shape in bfloat16,
made on the device. Decode of 1, 64 and 256 sequences after prompts of 512 tokens: a step in which
all decode, as a share of the time in which the device copies as many bytes as it has to read,
weights and pages; with and without CUDA graphs, and beside transformers' continuous batching.
Prefill: its share of the measured rate of matrix products. With --quick a small model on whatever
device there is, to see that it runs. With --json the last line is one flat JSON object.
"""

import gc
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, AutoModelForCausalLM, GenerationConfig, Qwen3Config
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from bench.output import make_parser, show
from bench.random_model import QWEN3_06B_SHAPE, QWEN3_8B_SHAPE, SMALL_SHAPE
from bench.stepping import Loop
from llmos.kernel.executor.attention import ATTENTION_NAME, LayerShape, attend
from llmos.kernel.executor.engine import PAGE_SIZE
from llmos.kernel.executor.gpu.support import runs_ops
from llmos.kernel.executor.model import Model

EXIT_NO_DEVICE = 1
Results = dict[str, float]


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    shapes: dict[str, Qwen3Config]
    num_sequences: tuple[int, ...]
    num_prompt: int
    num_new: int
    num_prefills: int
    num_step_tokens: int
    copy_bytes: int
    matrix_size: int
    num_rounds: int


FULL = Plan(
    {"0.6b": QWEN3_06B_SHAPE, "8b": QWEN3_8B_SHAPE}, (1, 64, 256), 512, 128, 32, 4096,
    1 << 30, 8192, 10,
)  # fmt: skip
QUICK = Plan({"small": SMALL_SHAPE}, (1, 3), 24, 8, 4, 64, 1 << 22, 256, 3)


def make_model_on(device: torch.device, shape: Qwen3Config) -> Model:
    """A random model that exists on the device alone."""
    AttentionInterface.register(ATTENTION_NAME, attend)
    torch.manual_seed(0)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with device:
        network = AutoModelForCausalLM.from_config(
            shape, dtype=dtype, attn_implementation=ATTENTION_NAME
        )
    layer = LayerShape(shape.num_key_value_heads, shape.head_dim, shape.head_dim)
    return Model(
        network=network.eval(),
        tokenizer=None,
        layers=(layer,) * shape.num_hidden_layers,
        device=device,
        dtype=dtype,
        weight_dtype=dtype,
        is_native=False,
        is_triton=runs_ops(device),
        architecture=type(network).__name__,
        num_parameters=sum(one.numel() for one in network.parameters()),
        max_model_len=shape.max_position_embeddings,
        fingerprint="",
    )


def make_prompts(num_sequences: int, num_tokens: int, num_vocabulary: int) -> list[list[int]]:
    """Random token ids: no two prompts share a beginning."""
    draw = random.Random(num_sequences)
    return [
        [draw.randrange(num_vocabulary) for _ in range(num_tokens)] for _ in range(num_sequences)
    ]


def count_step_bytes(shape: Qwen3Config, itemsize_bytes: int, num_tokens: int) -> int:
    """What a decode step reads: every weight that multiplies, and `num_tokens` keys and values."""
    layer = 2 * shape.num_key_value_heads * shape.head_dim
    head = shape.vocab_size * shape.hidden_size
    pages = num_tokens * layer * shape.num_hidden_layers
    return int(count_product_weights(shape) + head + pages) * itemsize_bytes


def count_product_weights(shape: Qwen3Config) -> int:
    """The weights of all layers' matrices, without embedding and head."""
    heads = shape.num_attention_heads + shape.num_key_value_heads
    attention = 2 * shape.hidden_size * heads * shape.head_dim
    layer = attention + 3 * shape.hidden_size * shape.intermediate_size
    return int(shape.num_hidden_layers * layer)


def count_prefill_operations(shape: Qwen3Config, num_prompt: int) -> float:
    """Additions and multiplications of a prompt: products with weights, and attention's."""
    width = shape.num_hidden_layers * shape.num_attention_heads * shape.head_dim
    return 2.0 * num_prompt * count_product_weights(shape) + 2.0 * float(width) * num_prompt**2


def compute_step_seconds(timestamps: Sequence[Sequence[float]]) -> float:
    """Seconds per step while all sequences decode, from the times of their tokens.

    Raises ValueError where they never did.
    """
    start = max(times[0] for times in timestamps)
    end = min(times[-1] for times in timestamps)
    num_steps = statistics.median(
        sum(start < moment <= end for moment in times) for times in timestamps
    )
    if num_steps < 1:
        raise ValueError("the sequences never decoded all at once")
    return (end - start) / num_steps


def measure_best_seconds(run: Callable[[], Any], device: torch.device, num_rounds: int) -> float:
    """The shortest of some runs, after one that does not count."""
    seconds = []
    for _ in range(num_rounds + 1):
        synchronize(device)
        started = time.perf_counter()
        run()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def measure_device(device: torch.device, plan: Plan) -> Results:
    """Bytes per second of a copy, read and written, and operations per second of a product."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    source = torch.ones(plan.copy_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = measure_best_seconds(lambda: target.copy_(source), device, plan.num_rounds)
    size = plan.matrix_size
    matrix = torch.randn(size, size, dtype=dtype, device=device)
    product = measure_best_seconds(lambda: matrix @ matrix, device, plan.num_rounds)
    return {
        "copy_bytes_per_second": 2 * plan.copy_bytes / copy,
        "product_operations_per_second": 2.0 * size**3 / product,
    }


def make_loop(model: Model, plan: Plan, num_sequences: int, *, wants_graphs: bool) -> Loop:
    """Room for all sequences at once."""
    pages = -(-(plan.num_prompt + plan.num_new) // PAGE_SIZE)
    return Loop(
        model,
        num_pages=(num_sequences + 1) * pages,
        max_running=num_sequences,
        max_step_tokens=plan.num_step_tokens,
        wants_graphs=wants_graphs,
    )


def measure_decode(
    model: Model, plan: Plan, num_sequences: int, *, wants_graphs: bool
) -> tuple[float, int]:
    """Seconds of a step that decodes `num_sequences`, and how many graphs there were."""
    prompts = make_prompts(num_sequences, plan.num_prompt, model.network.config.vocab_size)
    loop = make_loop(model, plan, num_sequences, wants_graphs=wants_graphs)
    loop.generate(prompts[:1], 2)
    answers = loop.generate(prompts, plan.num_new)
    loop.close()
    return compute_step_seconds([one.timestamps for one in answers]), loop.num_graphs


def measure_peer_decode(model: Model, plan: Plan, num_sequences: int) -> float:
    """The same by transformers' continuous batching, as it sets itself up."""
    prompts = make_prompts(num_sequences, plan.num_prompt, model.network.config.vocab_size)
    model.network.set_attn_implementation("sdpa")
    sizes = None  # by its own look at the memory, which it takes on a GPU alone
    if model.device.type == "cpu":
        sizes = ContinuousBatchingConfig(num_blocks=8, max_batch_tokens=plan.num_step_tokens)
    config = GenerationConfig(do_sample=False, max_new_tokens=plan.num_new, pad_token_id=0)
    outputs = model.network.generate_batch(
        inputs=prompts,
        generation_config=config,
        continuous_batching_config=sizes,
        record_timestamps=True,
    )
    model.network.set_attn_implementation(ATTENTION_NAME)
    lengths = [len(one.generated_tokens) for one in outputs.values()]
    if lengths != [plan.num_new] * num_sequences:
        raise RuntimeError(f"transformers' continuous batching made {sum(lengths)} tokens")
    return compute_step_seconds([one.timestamps for one in outputs.values()])


def measure_prefill_seconds(model: Model, plan: Plan) -> float:
    """Seconds of `num_prefills` prompts, one token each."""
    loop = make_loop(model, plan, plan.num_prefills, wants_graphs=False)
    vocabulary = model.network.config.vocab_size
    loop.generate(make_prompts(1, plan.num_prompt, vocabulary), 1)
    prompts = make_prompts(plan.num_prefills, plan.num_prompt, vocabulary)
    started = time.perf_counter()
    loop.generate(prompts, 1)
    seconds = time.perf_counter() - started
    loop.close()
    return seconds


def measure_shape(
    name: str, shape: Qwen3Config, device: torch.device, plan: Plan, limits: Results
) -> Results:
    """Every number of one model."""
    model = make_model_on(device, shape)
    results: Results = {}
    for count in plan.num_sequences:
        key = f"{name}_decode_{count}"
        eager, _ = measure_decode(model, plan, count, wants_graphs=False)
        ours, num_graphs = measure_decode(model, plan, count, wants_graphs=True)
        peer = measure_peer_decode(model, plan, count)
        num_tokens = count * (plan.num_prompt + plan.num_new // 2)
        num_bytes = count_step_bytes(shape, model.dtype.itemsize, num_tokens)
        results |= {
            f"{key}_ms": 1000 * ours,
            f"{key}_without_graphs_ms": 1000 * eager,
            f"{key}_graphs": num_graphs,
            f"{key}_vs_roofline": num_bytes / limits["copy_bytes_per_second"] / ours,
            f"{key}_vs_continuous_batching": peer / ours,
        }
    operations = plan.num_prefills * count_prefill_operations(shape, plan.num_prompt)
    rate = operations / measure_prefill_seconds(model, plan)
    results[f"{name}_prefill_vs_product"] = rate / limits["product_operations_per_second"]
    del model
    gc.collect()
    return results


def measure(device: torch.device, plan: Plan) -> Results:
    """Every number of this bench, by name."""
    limits = measure_device(device, plan)
    results = dict(limits)
    for name, shape in plan.shapes.items():
        results |= measure_shape(name, shape, device, plan, limits)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return results


def main() -> int:
    """Measure and print; 1 where there is no GPU to measure."""
    options = make_parser("gpu", quick="a small model, on any device").parse_args()
    has_gpu = torch.cuda.is_available()
    if not has_gpu and not options.quick:
        print("bench: there is no CUDA device here; fix: --quick, which shows that it runs",
              file=sys.stderr)  # fmt: skip
        return EXIT_NO_DEVICE
    device = torch.device("cuda" if has_gpu else "cpu")
    results = measure(device, QUICK if options.quick else FULL)
    title = torch.cuda.get_device_name() if has_gpu else "CPU: it runs, the figures mean nothing"
    show(results, title, as_json=options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
