"""Random-weight models that the benchmarks run: a small one, and Qwen3-0.6B's and 8B's shapes.

Random weights cost the same per token as trained ones. Seeded, so that two machines make the same
model. The large one is kept in the user's cache folder, never in the repository.
"""

import shutil
from pathlib import Path

import platformdirs
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config

CACHE = platformdirs.user_cache_path("llmos") / "bench"
SPECIALS = ("<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}<|im_start|>assistant\n"
)
LARGE = CACHE / "models" / "qwen3-0.6b-shape"


def _shape(
    vocab_size: int, width: int, num_layers: int, *, heads: tuple[int, int, int], is_tied: bool
) -> Qwen3Config:
    """A Qwen3's. `heads` are query heads, key heads, and the numbers of each."""
    return Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=num_layers,
        num_attention_heads=heads[0],
        num_key_value_heads=heads[1],
        head_dim=heads[2],
        max_position_embeddings=4096,
        rope_theta=1_000_000.0,
        tie_word_embeddings=is_tied,
    )


SMALL_SHAPE = _shape(4096, 256, 6, heads=(4, 2, 64), is_tied=True)
QWEN3_06B_SHAPE = _shape(151936, 1024, 28, heads=(16, 8, 128), is_tied=True)
QWEN3_8B_SHAPE = _shape(151936, 4096, 36, heads=(32, 8, 128), is_tied=False)


def make_model(folder: Path, shape: Qwen3Config, dtype: torch.dtype) -> None:
    """Save a random model of this shape and its tokenizer, as transformers would."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(shape, dtype=dtype).save_pretrained(folder)
    make_tokenizer(shape.vocab_size).save_pretrained(folder)


def make_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte is a token; every further id stands for a word of its own, so that all ids have text.

    No merge leads to a word: only a model can say one. No token ends an answer, so that every
    answer is as long as it may be.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*SPECIALS, *alphabet]
    tokens += [f"\u0120w{number}" for number in range(vocab_size - len(tokens))]
    inner = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(list(SPECIALS))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token=SPECIALS[1])
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def find_large_model() -> Path:
    """The bf16 model of Qwen3-0.6B's shape, made on first use (1.2 GB, half a minute)."""
    if not LARGE.is_dir():
        partial = LARGE.with_name(LARGE.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        make_model(partial, QWEN3_06B_SHAPE, torch.bfloat16)
        partial.rename(LARGE)
    return LARGE
