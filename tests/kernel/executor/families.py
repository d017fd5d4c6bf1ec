"""A small tokenizer of each family, as the checkpoints of that family have them."""

from collections.abc import Callable
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END = "<|end|>"
ADDED = "<tool>"  # an added token that is not special: it is text
SPACE = "\u2581"
TRAINING = (
    "The cat and the dog, the fox; a story. Don't you say 2 + 2? "
    "caf\u00e9 gr\u00fc\u00dfe \u4e16\u754c " * 3
)
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def _finish(inner: Tokenizer) -> Any:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=END)
    tokenizer.add_tokens([ADDED])
    return tokenizer


def make_byte_level() -> Any:
    """GPT-2, Qwen, Llama 3: letters stand for bytes."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        [TRAINING],
        trainers.BpeTrainer(
            vocab_size=330, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
        ),
    )
    return _finish(inner)


def _make_fallback(normalizer: Any, decoder: Any) -> Any:
    letters = sorted({*TRAINING.replace(" ", SPACE), SPACE})
    tokens = ["<unk>", END, *BYTES, *letters, SPACE + "t", SPACE + "a", "he", SPACE + SPACE]
    merges = [(SPACE, "t"), (SPACE, "a"), ("h", "e"), (SPACE, SPACE)]
    vocab = {token: index for index, token in enumerate(tokens)}
    inner = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    inner.normalizer = normalizer
    inner.decoder = decoder
    inner.add_special_tokens(["<unk>", END])
    return _finish(inner)


def make_llama() -> Any:
    """Llama 2, Mistral: a space before the text, taken off again; bytes for what has no token."""
    return _make_fallback(
        normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]),
        decoders.Sequence(
            [
                decoders.Replace(SPACE, " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        ),
    )


def make_gemma() -> Any:
    """Gemma: no space before the text; bytes for what has no token."""
    return _make_fallback(
        normalizers.Replace(" ", SPACE),
        decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]),
    )


def make_metaspace() -> Any:
    """Unigram: words begin with a mark."""
    inner = Tokenizer(models.Unigram())
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    inner.train_from_iterator(
        [TRAINING],
        trainers.UnigramTrainer(
            vocab_size=80, special_tokens=["<unk>", END], unk_token="<unk>", show_progress=False
        ),
    )
    return _finish(inner)


def make_word_piece() -> Any:
    """BERT: parts of words are marked, and spaces lie between words."""
    inner = Tokenizer(models.WordPiece(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece(cleanup=False)
    inner.train_from_iterator(
        [TRAINING],
        trainers.WordPieceTrainer(
            vocab_size=90, special_tokens=["<unk>", END], show_progress=False
        ),
    )
    return _finish(inner)


FAMILIES: dict[str, Callable[[], Any]] = {
    "byte level": make_byte_level,
    "llama": make_llama,
    "gemma": make_gemma,
    "metaspace": make_metaspace,
    "word piece": make_word_piece,
}
