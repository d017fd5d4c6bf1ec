"""What a CPU gives to one decoder layer, by the path that computes it: `bin/bench paths`.

The seven products of a layer of the Qwen3-0.6B shape, at 1 to 512 rows, and its attention over
sixteen contexts of 620 tokens and over a prompt of 512. Every path runs in the same process, in
turn, on weights that exceed the cache; a number is the lower quartile of single calls. --quick
leaves torch.compile out. With --json the last line is one flat JSON object.
"""

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle

import numpy as np
import torch
import torch._dynamo
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from bench.output import make_parser
from llmos.kernel.executor.attention import Chunk, LayerShape, Step
from llmos.kernel.executor.native.library import has_native_kernels
from llmos.kernel.executor.native.modules import PackedLinear
from llmos.kernel.executor.native.pool import NativePool
from llmos.kernel.executor.plain import PlainPool

SHAPES = (
    (2048, 1024),
    (1024, 1024),
    (1024, 1024),
    (1024, 2048),
    (3072, 1024),
    (3072, 1024),
    (1024, 3072),
)
ROWS = (1, 4, 16, 64, 512)
NUM_LAYERS = 8  # 8 layers of weights are past any cache
HEADS = LayerShape(num_heads=8, key_dim=128, value_dim=128)
NUM_QUERY_HEADS = 16
Call = Callable[[], object]


def measure(calls: Sequence[Call], seconds: float) -> float:
    """Seconds of one call: the lower quartile, the calls taken in turn."""
    for call in calls[:2]:
        call()
    times = []
    end = time.perf_counter() + seconds
    for call in cycle(calls):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
        if times and time.perf_counter() > end and len(times) >= len(calls):
            break
    return sorted(times)[len(times) // 4]


Layer = list[Callable[[torch.Tensor], torch.Tensor]]


def make_products(*, is_quick: bool) -> dict[str, tuple[torch.dtype, list[Layer]]]:
    """For each path the precision of its input, and the products of every layer."""
    generator = torch.Generator().manual_seed(0)
    weights = [
        [torch.randn(shape, generator=generator).bfloat16() * 0.02 for shape in SHAPES]
        for _ in range(NUM_LAYERS)
    ]
    half, single = torch.bfloat16, torch.float32
    eager: list[Layer] = [[_linear(w) for w in layer] for layer in weights]
    paths = {
        "torch float32": (single, [[_linear(w.float()) for w in layer] for layer in weights]),
        "torch bfloat16": (half, eager),
    }
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():  # without it oneDNN packs no bfloat16
        packed: list[Layer] = [[_packed(w) for w in layer] for layer in weights]
        paths["oneDNN packed bfloat16"] = (half, packed)
    if not is_quick:
        paths["torch.compile bfloat16"] = (
            half,
            [[_compiled(w) for w in layer] for layer in weights],
        )
    if has_native_kernels():
        ours: list[Layer] = [[PackedLinear(w, None) for w in layer] for layer in weights]
        paths["llmos bfloat16"] = (half, ours)
    return paths


def _linear(weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: F.linear(x, weight)


def _packed(weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


def _compiled(weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: _multiply(x, weight)


@torch.compile(mode="max-autotune", dynamic=False)
def _multiply(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Compiled once for each shape of a weight, all layers' alike, and each number of rows."""
    return F.linear(x, weight)


def run_products(layer: Layer, inputs: dict[int, torch.Tensor]) -> None:
    """All products of a layer, each on an input of its width."""
    for product, (_, width) in zip(layer, SHAPES, strict=True):
        product(inputs[width])


def measure_products(*, is_quick: bool, seconds: float) -> dict[str, dict[int, float]]:
    """Seconds of a layer's products by path and number of rows."""
    results: dict[str, dict[int, float]] = {}
    for name, (dtype, layers) in make_products(is_quick=is_quick).items():
        results[name] = {}
        for rows in ROWS:
            torch.compiler.reset()  # or the shapes of all rows together exceed what it keeps
            inputs = {width: torch.randn(rows, width).to(dtype) for width in (1024, 2048, 3072)}
            calls = [partial(run_products, layer, inputs) for layer in layers]
            results[name][rows] = measure(calls, seconds)
    return results


def make_step(pool: PlainPool | NativePool, num_sequences: int, num_new: int, length: int) -> Step:
    """Sequences of `length` tokens whose last `num_new` are new, on pages in random order."""
    pages_each = -(-length // pool.page_size)
    order = np.random.default_rng(0).permutation(num_sequences * pages_each).astype(np.int32)
    chunks, slots = [], []
    for index, pages in enumerate(np.split(order, num_sequences)):
        chunks.append(Chunk(index * num_new, num_new, length - num_new, pages))
        places = np.arange(length - num_new, length)
        slots.append(
            pages[places // pool.page_size].astype(np.int64) * pool.page_size
            + places % pool.page_size
        )
    decodes = num_sequences if num_new == 1 else 0
    return Step(pool, np.concatenate(slots), decodes, chunks)


def run_attention(layer: int, query: torch.Tensor, key: torch.Tensor, step: Step) -> None:
    """Write the new keys, also as values, and attend."""
    step.pool.write(layer, key, key, step)
    step.pool.attend(layer, query, step, HEADS.key_dim**-0.5, None, None)


def measure_attention(seconds: float) -> dict[str, dict[str, float]]:
    """Seconds of a layer's attention by path and workload."""
    results: dict[str, dict[str, float]] = {}
    num_pages, cpu = 16 * 40, torch.device("cpu")
    pools: dict[str, tuple[torch.dtype, PlainPool | NativePool]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        plain = PlainPool([HEADS] * 4, num_pages=num_pages, page_size=16, dtype=dtype, device=cpu)
        pools[f"gather and torch {str(dtype).removeprefix('torch.')}"] = dtype, plain
    if has_native_kernels():
        pools["llmos bfloat16"] = torch.bfloat16, NativePool([HEADS] * 4, num_pages=num_pages)
    for name, (dtype, pool) in pools.items():
        results[name] = {}
        for workload, shape in (("16 x 620", (16, 1, 620)), ("prompt 512", (1, 512, 512))):
            step = make_step(pool, *shape)
            tokens = shape[0] * shape[1]
            query = torch.randn(1, NUM_QUERY_HEADS, tokens, 128).to(dtype)
            key = torch.randn(1, HEADS.num_heads, tokens, 128).to(dtype)
            calls = [partial(run_attention, layer, query, key, step) for layer in range(4)]
            results[name][workload] = measure(calls, seconds)
    return results


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    options = make_parser("paths", quick="without torch.compile").parse_args()
    torch._dynamo.config.fail_on_recompile_limit_hit = True  # else it would time eager mode
    seconds = 0.5 if options.quick else 2.0
    products = measure_products(is_quick=options.quick, seconds=seconds)
    attention = measure_attention(seconds)
    console = Console()
    threads = f"{torch.get_num_threads()} threads"
    table = Table(
        "path", *[f"{rows} rows, ms" for rows in ROWS], title=f"a layer's products, {threads}"
    )
    for name, by_rows in products.items():
        table.add_row(name, *[f"{by_rows[rows] * 1e3:.2f}" for rows in ROWS])
    console.print(table)
    table = Table(
        "path", "16 x 620 tokens, ms", "prompt of 512, ms", title=f"a layer's attention, {threads}"
    )
    for name, by_workload in attention.items():
        table.add_row(name, *[f"{value * 1e3:.2f}" for value in by_workload.values()])
    console.print(table)
    if options.json:
        flat = {f"{n} {r} rows ms": s * 1e3 for n, by in products.items() for r, s in by.items()}
        flat |= {f"{n} {w} ms": s * 1e3 for n, by in attention.items() for w, s in by.items()}
        print(json.dumps({key.replace(" ", "_"): value for key, value in flat.items()}))


if __name__ == "__main__":
    main()
