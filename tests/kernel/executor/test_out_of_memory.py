"""Steps that run out of memory: they are tried again with less, and only the largest ends."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from llmos.kernel.executor.engine import Engine
from llmos.kernel.executor.protocol import Done, Failed, Generate, Load, Score
from llmos.kernel.executor.relief import WIDEN_STEPS
from llmos.kernel.executor.shortage import is_out_of_memory
from llmos.syscalls.types import Message, Sampling

from .conftest import SHAPE, make_tokenizer, run

GREEDY = Sampling(max_tokens=12, temperature=0.0)
TEXTS = ("hello", "one two three " * 12, "and what of this?")
LIMITED = """
import resource, sys
from pathlib import Path
from tests.kernel.executor.test_out_of_memory import *

def limit(num_bytes):
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + num_bytes, resource.RLIM_INFINITY))

engine = Engine(Load(sys.argv[1], device="cpu", dtype="float32"), num_pages=int(sys.argv[2]))
short, long, whole = [f"{number} hi" for number in range(3)], "word " * 250, {}
for text in (*short, long):
    whole |= {text: answer(engine, text).text}
submit(engine, long, tenant="b")
begun = [engine.step() for _ in range(4)]
limit(int(sys.argv[3]) << 20)
for number, text in enumerate(short, 1):
    submit(engine, text, number, tenant="b")
ended = find_ends(engine)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
stats = engine.collect_stats()
assert stats.num_out_of_memory > 0
assert [ended[number].text for number in (1, 2, 3)] == [whole[text] for text in short]
is_done = isinstance(ended[0], Done)
print(stats.num_pages, ended[0].text == whole[long] if is_done else ended[0].error)
assert answer(engine, long, tenant="b").text == whole[long]
"""


@pytest.fixture
def engine(qwen3: Path) -> Engine:
    """An engine on a model of its own, which the tests make fail."""
    return Engine(Load(str(qwen3)), num_pages=256)


def submit(engine: Engine, text: str, number: int = 0, *, tenant: str = "") -> None:
    engine.submit(Generate(number, (Message("user", text),), sampling=GREEDY, tenant=tenant))


def find_ends(engine: Engine) -> dict[int, Any]:
    """What became of each request."""
    return {one.id: one for one in run(engine) if isinstance(one, Done | Failed)}


def answer(engine: Engine, text: str, *, tenant: str = "") -> Any:
    submit(engine, text, tenant=tenant)
    return find_ends(engine)[0]


def fail_above(engine: Engine, num_tokens: Callable[[], int]) -> list[int]:
    """Let a forward pass of more tokens than this ask torch for far too much; all passes' sizes."""
    sizes: list[int] = []

    def allocate(module: Any, args: Any, kwargs: Any) -> None:
        sizes.append(kwargs["input_ids"].shape[1])
        if sizes[-1] > num_tokens():
            torch.empty(1 << 60)

    engine._model.network.register_forward_pre_hook(allocate, with_kwargs=True)
    return sizes


def test_the_errors_of_torch_itself_are_known() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60)

    assert is_out_of_memory(raised.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_step_too_large_is_cut_until_it_fits_and_the_texts_are_the_same(engine: Engine) -> None:
    whole = [answer(engine, text).text for text in TEXTS]
    sizes = fail_above(engine, lambda: 5)

    for number, text in enumerate(TEXTS):
        submit(engine, text, number, tenant="b")
    ended = find_ends(engine)

    assert [ended[number].text for number in range(3)] == whole
    assert max(sizes) > 5
    assert 1 < max(size for size in sizes[3:] if size <= 5)


def test_who_does_not_fit_even_alone_ends_and_the_others_go_on(engine: Engine) -> None:
    whole = answer(engine, "hello").text
    large: list[bool] = []
    fail_above(engine, lambda: 0 if large and engine._generations.get(1) else 512)

    submit(engine, "one two three " * 12, 1)
    begun = [one for _ in range(4) for one in engine.step()]
    large.append(True)
    submit(engine, "hello", 2)
    ended = find_ends(engine)

    assert ended[1].error.code == "E_LIMIT"
    assert ended[1].error.partial == "".join(one.text for one in begun)  # type: ignore[union-attr]
    assert "in a context" in ended[1].error.message
    assert ended[2].text == whole


def test_steps_grow_again_after_a_while(engine: Engine) -> None:
    is_short = [True]
    sizes = fail_above(engine, lambda: 4 if is_short[0] else 512)
    answer(engine, "hello")
    is_short[0] = False

    for number in range(8 * WIDEN_STEPS // GREEDY.max_tokens):  # type: ignore[operator]
        answer(engine, f"{number}")
    del sizes[:]
    answer(engine, "one two three " * 12)

    assert sizes[0] > 100


def test_a_text_that_is_scored_ends_too(engine: Engine) -> None:
    fail_above(engine, lambda: 0)

    engine.submit(Score(7, (Message("user", "hi"),), (" there", " you")))

    assert find_ends(engine)[7].error.code == "E_LIMIT"
    assert not engine.has_work


def test_another_fault_of_the_model_is_not_hidden(engine: Engine) -> None:
    def break_down(module: Any, args: Any) -> None:
        raise RuntimeError("a fault of another kind")

    engine._model.network.register_forward_pre_hook(break_down)
    submit(engine, "hello")

    with pytest.raises(RuntimeError, match="another kind"):
        engine.step()


def test_a_pool_that_was_cut_keeps_its_first_pages(qwen3: Path) -> None:
    engine = Engine(Load(str(qwen3)), num_pages=256)
    whole = answer(engine, TEXTS[1])
    is_short = [True]
    fail_above(engine, lambda: 0 if is_short[0] else 512)

    submit(engine, TEXTS[1])
    engine.step()
    is_short[0] = False
    again = find_ends(engine)[0]

    assert engine.collect_stats().num_pages == 128
    assert again.text == whole.text
    assert again.usage.cached_tokens == whole.usage.prompt_tokens // 16 * 16
    assert engine.loaded.max_model_len // 16 <= 128


def make_wide(folder: Path, *, num_layers: int, num_heads: int) -> Path:
    """A model whose steps and pages take megabytes."""
    torch.manual_seed(1)
    shape = SHAPE | {"num_hidden_layers": num_layers, "intermediate_size": 16_384}
    shape |= {"num_attention_heads": 8, "num_key_value_heads": num_heads, "head_dim": 256}
    config = Qwen3Config(**shape | {"max_position_embeddings": 2048})
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def run_limited(folder: Path, *, num_pages: int, num_megabytes: int) -> str:
    """Run the script in a process that may take so much more memory once it has begun."""
    words = [sys.executable, "-c", LIMITED, str(folder), str(num_pages), str(num_megabytes)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    env["MALLOC_MMAP_THRESHOLD_"] = str(1 << 18)  # what was freed goes back to the system
    ended = subprocess.run(words, env=env, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="address spaces are limited by Linux")
def test_under_a_real_limit_a_smaller_pool_makes_room(tmp_path: Path) -> None:
    model = make_wide(tmp_path, num_layers=4, num_heads=2)

    assert run_limited(model, num_pages=512, num_megabytes=10) == "256 True\n"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="address spaces are limited by Linux")
def test_under_a_real_limit_the_largest_ends_and_the_others_are_as_ever(tmp_path: Path) -> None:
    model = make_wide(tmp_path, num_layers=1, num_heads=8)

    said = run_limited(model, num_pages=128, num_megabytes=6)

    assert said.startswith("128 ")
    assert "E_LIMIT" in said
