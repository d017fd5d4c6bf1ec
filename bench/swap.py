"""Pages between device, host and disk: how fast they move, and what that saves.

`bin/bench swap [--quick] [--json]`. A context of 2,000 tokens on a random model of Qwen3-0.6B's
shape in bfloat16 (quick: on a small one): its pages from the host to the device
beside a plain copy of as many bytes; its first token after a restart, from disk, beside computing
it (the files' pages are dropped from the system's cache first); and eight branches of it at once.
Ratios of one run; the machine's own speed cancels out. With --json the last line is one flat JSON
object.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from bench.output import make_parser, show
from bench.random_model import SMALL_SHAPE, find_large_model, make_model
from llmos.kernel.executor.engine import PAGE_SIZE, Engine
from llmos.kernel.executor.protocol import Done, Generate, Hint, Load
from llmos.syscalls.types import Message, Sampling, Usage

NUM_TOKENS = 2000
NUM_BRANCHES = 8
NUM_PAGES = 320
OWNER = 7
NUM_ROUNDS = 5
CONTEXT = "x" * (NUM_TOKENS - 60)  # a byte is a token in the random models


def ask(number: int, *, text: str = CONTEXT, seed: int = 0) -> Generate:
    """The context, continued by two tokens."""
    sampling = Sampling(max_tokens=2, temperature=1.0, seed=seed)
    return Generate(number, (Message("user", text),), sampling=sampling, owner=OWNER)


def run(engine: Engine, requests: list[Generate]) -> list[Usage]:
    """All requests at once."""
    for request in requests:
        engine.submit(request)
    usages = []
    while engine.has_work:
        usages += [one.usage for one in engine.step() if isinstance(one, Done)]
    return usages


def measure_copies(engine: Engine) -> float:
    """Bytes per second of pages from the host to the device, by those of plain copies."""
    store = engine._swap._store
    buffers = [store.read_page(page) for page in range(NUM_TOKENS // PAGE_SIZE)]
    plain = np.zeros((len(buffers), store.page_bytes), np.uint8)
    ratios = []
    for _ in range(NUM_ROUNDS):
        started = time.perf_counter()
        for index, buffer in enumerate(buffers):
            np.copyto(plain[index], buffer)
        between = time.perf_counter()
        for page, buffer in enumerate(buffers):
            store.write_page(page, buffer)
        ratios.append((between - started) / (time.perf_counter() - between))
    return statistics.median(ratios)


def measure_fork(engine: Engine) -> dict[str, float]:
    """What each of eight branches of a known context computes and occupies of its own."""
    branches = [ask(100 + number, seed=number) for number in range(NUM_BRANCHES)]
    for branch in branches:
        engine.submit(branch)
    most = 0
    usages = []
    while engine.has_work:
        usages += [one.usage for one in engine.step() if isinstance(one, Done)]
        tables = [set(one.pages) for one in engine._scheduler.running]
        if len(tables) == NUM_BRANCHES:
            shared = set.intersection(*tables)
            most = max(most, *(len(table - shared) for table in tables))
    computed = [one.prompt_tokens - one.cached_tokens for one in usages]
    return {"fork_pages_per_branch": most, "fork_tokens_prefilled_per_branch": max(computed)}


def measure(model: str, folder: Path) -> dict[str, float]:
    """Every number of this bench, by name."""
    spec = Load(model, device="cpu", dtype="bfloat16", page_folder=str(folder))
    engine = Engine(spec, num_pages=NUM_PAGES)
    run(engine, [ask(0, text="hi")])
    started = time.perf_counter()
    (usage,) = run(engine, [ask(1)])
    prefill_seconds = time.perf_counter() - started
    engine.hint(Hint(OWNER, "person"))
    while engine.rest():
        pass
    assert engine._swap.disk is not None
    engine._swap.disk.drain()
    results = measure_fork(engine) | {"host_to_device_vs_memcpy": measure_copies(engine)}
    engine.close()
    del engine
    drop_from_cache(folder)

    engine = Engine(spec, num_pages=NUM_PAGES)
    run(engine, [ask(0, text="hi")])
    started = time.perf_counter()
    (again,) = run(engine, [ask(1)])
    restore_seconds = time.perf_counter() - started
    engine.close()
    return results | {
        "prompt_tokens": usage.prompt_tokens,
        "restored_tokens": again.cached_tokens,
        "prefill_seconds": prefill_seconds,
        "restore_seconds": restore_seconds,
        "disk_restore_vs_prefill": prefill_seconds / restore_seconds,
    }


def drop_from_cache(folder: Path) -> None:
    """Have the next read of the folder's files come from the disk."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure_large() -> dict[str, float]:
    """The same on the large model, with a folder of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        return measure(str(find_large_model()), Path(scratch))


def measure_small() -> dict[str, float]:
    """The same on a small model, in a few seconds."""
    with tempfile.TemporaryDirectory() as model, tempfile.TemporaryDirectory() as scratch:
        make_model(Path(model), SMALL_SHAPE, torch.bfloat16)
        return measure(model, Path(scratch))


def main() -> None:
    """Measure and print."""
    options = make_parser("swap", quick="a small model, a few seconds").parse_args()
    results = measure_small() if options.quick else measure_large()
    show(results, f"{NUM_TOKENS} tokens of pages, CPU", as_json=options.json)


if __name__ == "__main__":
    main()
