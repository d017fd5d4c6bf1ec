"""The estimate beside what the executor really does with the same files."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmos.kernel import estimate as estimates
from llmos.kernel.devices import HOST, Device, count_private_bytes, read_host
from llmos.kernel.drivers.driver import Finished, GenerationJob, Grant
from llmos.kernel.drivers.local import LocalDriver
from llmos.kernel.estimate import count_token_numbers, estimate_model, pick_dtype
from llmos.kernel.executor import device
from llmos.kernel.executor.engine import Engine
from llmos.kernel.executor.model import load_model
from llmos.kernel.executor.native.library import has_native_kernels
from llmos.kernel.executor.native.modules import PackedLinear
from llmos.kernel.executor.protocol import Load
from llmos.kernel.modelfiles import ModelFiles, read_model_files
from llmos.syscalls.errors import E_MODEL
from llmos.syscalls.types import Message, Sampling

from .conftest import CONFIGS, save_checkpoint

GPU = Device("cuda:0", "H100", 80 << 30, 80 << 30)
QWEN3_8B = {
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
}


def make_files(config: dict[str, Any], **shapes: tuple[int, ...]) -> ModelFiles:
    return ModelFiles(Path("/nowhere"), config, shapes)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_weights_pages_and_window_are_those_of_the_engine(
    name: str, make_checkpoint: Callable[[str], Path]
) -> None:
    folder = make_checkpoint(name)
    engine = Engine(Load(str(folder)), num_pages=64)
    loaded, stats = engine.loaded, engine.collect_stats()

    estimate = estimate_model(name, read_model_files(folder), read_host())

    assert estimate.dtype == loaded.dtype
    assert estimate.num_parameters == loaded.num_parameters
    if estimate.dtype == "float32":  # what is packed is counted below
        assert estimate.weight_bytes == 4 * loaded.num_parameters
    assert estimate.token_bytes * loaded.page_size == stats.page_bytes
    assert estimate.window_tokens == loaded.max_model_len
    engine.close()


@pytest.mark.skipif(not has_native_kernels(), reason="needs the compiled kernels")
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
@pytest.mark.parametrize("name", ["qwen3", "llama", "phi", "gpt2"])
def test_packed_weights_are_counted_as_they_lie_in_memory(
    name: str, dtype: str, tmp_path: Path
) -> None:
    folder = save_checkpoint(name, tmp_path / name, head_dim=32)
    files = read_model_files(folder)
    model = load_model(Load(str(folder), device="cpu", dtype=dtype))
    parts = list(model.network.modules())
    sizes = [one.weight.numel() for one in parts if isinstance(one, PackedLinear)]
    embedded = [one.weight.nbytes for one in parts if isinstance(one, torch.nn.Embedding)]
    size_bytes = sum(sizes) * (1 if dtype == "int8" else 2) + sum(embedded)

    estimate = estimate_model(name, files, read_host(), dtype)

    assert estimate.dtype == dtype
    assert size_bytes <= estimate.weight_bytes <= 1.15 * size_bytes  # norms, biases, scales
    assert estimate.token_bytes == 2 * count_token_numbers(files)


def test_int8_is_refused_where_the_executor_would_refuse_it() -> None:
    files = make_files(QWEN3_8B, all=(8_190_735_360,))
    plain = Device(HOST, "host memory", 8 << 30, 8 << 30, has_bfloat16=False)

    with pytest.raises(E_MODEL, match=r"not on cuda:0; fix: LLMOS_DEVICE=cpu, or LLMOS_DTYPE=auto"):
        estimate_model("qwen3-8b", files, GPU, "int8")
    with pytest.raises(E_MODEL, match=r"AVX2, and gcc; fix: install gcc, or LLMOS_DTYPE=auto"):
        estimate_model("qwen3-8b", files, plain, "int8")
    assert estimate_model("qwen3-8b", files, plain, "float32").dtype == "float32"


@pytest.mark.parametrize("name", ["rope_parameters", "rope_scaling"])
def test_a_window_ends_where_the_rotation_begins_to_depend_on_the_batch(
    name: str, make_copy: Callable[[str], Path]
) -> None:
    folder = make_copy("llama")
    config = json.loads((folder / "config.json").read_text())
    theta = config.pop("rope_parameters")["rope_theta"]
    scaling = {"factor": 2.0, "original_max_position_embeddings": 256}
    if name == "rope_parameters":
        config[name] = {"rope_type": "dynamic", "rope_theta": theta, **scaling}
    else:  # as it was written before
        config |= {"rope_theta": theta, name: {"type": "dynamic", **scaling}}
    (folder / "config.json").write_text(json.dumps(config))
    engine = Engine(Load(str(folder)), num_pages=64)

    estimate = estimate_model("llama", read_model_files(folder), read_host())

    assert estimate.window_tokens == engine.loaded.max_model_len == 256
    engine.close()


def test_pages_take_no_more_than_was_granted(qwen3: Path) -> None:
    granted = [Engine(Load(str(qwen3), max_pool_bytes=size)) for size in (100_000, 200_000)]

    sizes = [one.loaded.num_pages * one.collect_stats().page_bytes for one in granted]

    page_bytes = granted[0].collect_stats().page_bytes
    assert sizes == [size // page_bytes * page_bytes for size in (100_000, 200_000)]
    assert [one.loaded.max_model_len for one in granted] == [64, 128]
    for one in granted:
        one.close()


def test_the_executors_numbers_are_known_here() -> None:
    for name, known in (("cpu", estimates.HOST_LIMITS), ("cuda", estimates.GPU_LIMITS)):
        limits = device.pick_step_limits(torch.device(name))
        assert known == (limits.max_running, limits.max_tokens)


@pytest.mark.parametrize(("name", "head_dim"), [("qwen3", 24), ("qwen3", 32), ("gpt2", 32)])
def test_the_precision_is_the_one_that_the_executor_picks(
    name: str, head_dim: int, tmp_path: Path
) -> None:
    files = read_model_files(save_checkpoint(name, tmp_path / name, head_dim=head_dim))

    picked = load_model(Load(str(files.folder), device="cpu")).dtype

    assert pick_dtype(read_host(), files) == str(picked).removeprefix("torch.")
    assert pick_dtype(GPU, files) == "bfloat16"


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("qwen3", {"head_dim": 24}),
        ("qwen3", {"head_dim": 32}),
        ("gpt2", {"n_head": 8}),
        ("gpt2", {"n_head": 4}),
    ],
)
def test_a_model_is_estimated_in_the_precision_that_its_heads_allow(
    name: str, changes: dict[str, int], tmp_path: Path
) -> None:
    folder = save_checkpoint(name, tmp_path, num_hidden_layers=2, **changes)
    engine = Engine(Load(str(folder)), num_pages=8)

    estimate = estimate_model(name, read_model_files(folder), read_host())

    assert estimate.dtype == engine.loaded.dtype
    assert estimate.token_bytes * engine.loaded.page_size == engine.collect_stats().page_bytes
    engine.close()


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_the_configuration_alone_says_the_same_of_pages(
    name: str, make_checkpoint: Callable[[str], Path]
) -> None:
    files = read_model_files(make_checkpoint(name))

    by_config = count_token_numbers(make_files(files.config))

    assert by_config == count_token_numbers(files) > 0


def test_an_old_configuration_and_a_latent_one_are_understood() -> None:
    gpt2 = {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024}
    latent = {
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
    }

    assert count_token_numbers(make_files(gpt2)) == 12 * 2 * 768
    assert count_token_numbers(make_files(latent)) == 2 * 4 * (128 + 64 + 128)
    assert count_token_numbers(make_files({"text_config": gpt2})) == 12 * 2 * 768
    assert count_token_numbers(make_files({"num_key_value_heads": 8})) == 0


def test_the_projections_of_a_vision_tower_keep_no_text() -> None:
    shapes: dict[str, tuple[int, ...]] = {
        "model.layers.0.self_attn.k_proj.weight": (48, 64),
        "model.layers.0.self_attn.v_proj.weight": (48, 64),
        "vision_tower.layers.0.self_attn.k_proj.weight": (999, 64),
    }

    assert count_token_numbers(make_files({}, **shapes)) == 96


def test_a_model_of_8_billion_needs_on_a_gpu_what_is_known_of_it() -> None:
    files = make_files(QWEN3_8B, all=(8_190_735_360,))

    estimate = estimate_model("qwen3-8b", files, GPU)

    assert (estimate.dtype, estimate.weight_bytes) == ("bfloat16", 16_381_470_720)
    assert estimate.token_bytes == 147_456  # 36 x 8 x 256 numbers of 2 bytes: 144 KiB
    assert estimate.min_context_tokens == estimates.MIN_CONTEXT_TOKENS
    assert estimate.count_context_tokens(24 << 30) == 40960
    assert 20_000 < estimate.count_context_tokens(21 << 30) < 40_000
    assert estimate.count_context_tokens(16 << 30) == 0


def test_where_the_files_do_not_tell_the_window_is_taken_to_fit() -> None:
    estimate = estimate_model("odd", make_files({"max_position_embeddings": 9}, a=(5,)), GPU)

    assert (estimate.token_bytes, estimate.count_context_tokens(0)) == (0, 9)


@pytest.mark.slow
@pytest.mark.anyio
async def test_an_executor_takes_about_the_memory_that_was_estimated(
    qwen3: Path, tmp_path: Path
) -> None:
    needs = estimate_model("qwen3", read_model_files(qwen3), read_host())
    driver = LocalDriver(str(qwen3), log=tmp_path / "log")
    await driver.start((Grant(HOST, needs.token_bytes * needs.min_context_tokens),))
    job = GenerationJob((Message("user", "word " * 60),), sampling=Sampling(max_tokens=8, seed=1))
    assert isinstance([one async for one in driver.generate(job)][-1], Finished)

    taken_bytes = sum(map(count_private_bytes, driver.process_ids))
    await driver.aclose()

    assert 0.6 * needs.needed_bytes < taken_bytes < 1.3 * needs.needed_bytes


def test_an_estimate_needs_no_library_of_the_executor(tmp_path: Path, qwen3: Path) -> None:
    script = (
        "import sys\nfrom llmos.kernel.devices import find_devices\n"
        "from llmos.kernel.models import estimate_on\n"
        "assert estimate_on(sys.argv[1], find_devices())\n"
        "import json\n"
        "print(json.dumps([name for name in ('torch', 'transformers', 'numpy', 'safetensors')"
        " if name in sys.modules]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(qwen3)], capture_output=True, text=True, check=True
    )

    assert json.loads(run.stdout) == []
