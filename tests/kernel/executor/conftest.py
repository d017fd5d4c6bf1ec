"""Tiny random checkpoints of several architectures, made once per test run."""

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PhiConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from llmos.kernel.drivers.local import LocalDriver
from llmos.kernel.executor.engine import Engine
from llmos.kernel.executor.model import Model, load_model
from llmos.kernel.executor.protocol import Embed, Generate, Load, Output, Score

# What a prompt's tokens, and so a test's answers, depend on: nothing that is edited.
TRAINING = Path(__file__).parent / "data" / "training.txt"
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    "Answer with <tool_call> to call.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>"
    "{% endfor %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
SHAPE: dict[str, Any] = {
    "vocab_size": 400,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "max_position_embeddings": 512,
    "eos_token_id": 2,
    "bos_token_id": 0,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}
ALTERNATING = ["sliding_attention", "full_attention"] * 2
CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaConfig(**SHAPE),
    "qwen3": lambda: Qwen3Config(**SHAPE, tie_word_embeddings=True),
    "gemma2": lambda: Gemma2Config(
        **SHAPE,
        sliding_window=20,
        layer_types=ALTERNATING,
        query_pre_attn_scalar=40,
        tie_word_embeddings=False,
    ),
    "gemma3": lambda: Gemma3TextConfig(
        **SHAPE,
        sliding_window=20,
        layer_types=ALTERNATING,
        query_pre_attn_scalar=40,
        tie_word_embeddings=False,
    ),
    "mistral": lambda: MistralConfig(**SHAPE, sliding_window=24),
    "phi": lambda: PhiConfig(**SHAPE, partial_rotary_factor=0.5),
    "gpt2": lambda: GPT2Config(
        vocab_size=SHAPE["vocab_size"], n_embd=64, n_layer=4, n_head=2, n_positions=512,
        bos_token_id=0, eos_token_id=2, initializer_range=0.1,
    ),
}  # fmt: skip


def make_tokenizer(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SHAPE["vocab_size"],
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([TRAINING.read_text(encoding="utf-8")], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", additional_special_tokens=SPECIALS[:2]
    )
    tokenizer.chat_template = template
    return tokenizer


def save_checkpoint(name: str, folder: Path, **changes: Any) -> Path:
    """Random weights of an architecture, its configuration changed, and the tokenizer."""
    config = CONFIGS[name]()
    for field, value in changes.items():
        setattr(config, field, value)
    if kinds := getattr(config, "layer_types", None):
        config.layer_types = kinds[: config.num_hidden_layers]
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def run(engine: Engine, *requests: Generate | Score | Embed) -> list[Output]:
    """What comes of these requests, and of those under way, up to their ends."""
    for request in requests:
        engine.submit(request)
    outputs: list[Output] = []
    while engine.has_work:
        outputs += engine.step()
        engine.check_integrity()
    return outputs


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with random weights of an architecture; the same folder for the same name."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            made[name] = save_checkpoint(name, tmp_path_factory.mktemp(name))
        return made[name]

    return make


@pytest.fixture(scope="session")
def qwen3(make_checkpoint: Callable[[str], Path]) -> Path:
    """The folder of the random Qwen3."""
    return make_checkpoint("qwen3")


@pytest.fixture
def make_copy(make_checkpoint: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of an architecture's folder, to be changed."""
    return lambda name: Path(shutil.copytree(make_checkpoint(name), tmp_path / name))


@pytest.fixture(scope="session")
def qwen3_model(qwen3: Path) -> Model:
    """The random Qwen3, loaded once: for those who do not change it."""
    return load_model(Load(str(qwen3)))


@pytest.fixture
def engine(qwen3: Path, qwen3_model: Model) -> Engine:
    """A fresh engine on the random Qwen3."""
    return Engine(Load(str(qwen3)), model=qwen3_model, num_pages=256)


@pytest.fixture(scope="module")
async def driver(
    qwen3: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[LocalDriver]:
    """A driver for all tests of a module: whoever kills its executor gets another one."""
    log = tmp_path_factory.mktemp("driver") / "executor.log"
    async with aclosing(LocalDriver(str(qwen3), log=log)) as driver:
        yield driver
