"""A control token's text inside a message is text, for tokenizers of the three great families."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from llmos.kernel.executor.chat import ChatEncoder
from llmos.syscalls.types import Message, ToolSpec

LLAMA = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}<|start_header_id|>assistant<|end_header_id|>\n\n"
)
QWEN = (
    "{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content | trim }}"
    "<end_of_turn>\n{% endfor %}<start_of_turn>model\n"
)
MISTRAL = "{{ bos_token }}{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}"
PIECES = ["<", "|", ">", " ", "\n", "im_end", "eot_id", "a", "▁", "\\", "🦊", "[INST", "]", "/"]


def train(inner: Tokenizer, specials: list[str], **options: Any) -> None:
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=specials, show_progress=False, **options
    )
    inner.train_from_iterator([Path(__file__).read_text(encoding="utf-8")], trainer)


def finish(inner: Tokenizer, template: str, bos: str | None, eos: str) -> Any:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=bos, eos_token=eos)
    tokenizer.chat_template = template
    return tokenizer


def make_byte_level(specials: list[str]) -> Tokenizer:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    train(inner, specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    return inner


def make_llama() -> Any:
    """Llama 3: bytes, and a beginning that the tokenizer adds by itself."""
    names = ("begin_of_text", "start_header_id", "end_header_id", "eot_id", "python_tag")
    inner = make_byte_level([f"<|{name}|>" for name in names])
    inner.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 0)]
    )
    return finish(inner, LLAMA, "<|begin_of_text|>", "<|eot_id|>")


def make_qwen() -> Any:
    """Qwen: bytes, and tags for calls that are no special tokens."""
    inner = make_byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    inner.add_tokens([AddedToken(tag, normalized=False) for tag in ("<tool_call>", "</tool_call>")])
    return finish(inner, QWEN, None, "<|im_end|>")


def make_sentences(specials: list[str], normalizer: Any) -> Tokenizer:
    """SentencePiece as transformers converts it: spaces are letters, rare characters are bytes."""
    inner = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    inner.normalizer = normalizer
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    train(inner, ["<unk>", *specials, *(f"<0x{byte:02X}>" for byte in range(256))])
    return inner


def make_gemma() -> Any:
    """Gemma: runs of newlines are added tokens too, and are not control tokens."""
    specials = ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]
    inner = make_sentences(specials, normalizers.Replace(" ", "▁"))
    inner.add_tokens([AddedToken(text, normalized=False) for text in ("\n\n", "\n\n\n", "▁▁")])
    return finish(inner, GEMMA, "<bos>", "<eos>")


def make_mistral() -> Any:
    """Mistral and Llama 2: a space is put before every text."""
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner = make_sentences(["<s>", "</s>", "[INST]", "[/INST]"], normalizer)
    return finish(inner, MISTRAL, "<s>", "</s>")


MAKERS: dict[str, Callable[[], Any]] = {
    "llama": make_llama,
    "qwen": make_qwen,
    "gemma": make_gemma,
    "mistral": make_mistral,
}


@cache
def get_tokenizer(family: str) -> Any:
    return MAKERS[family]()


def list_controls(family: str) -> list[str]:
    """The texts of a tokenizer's control tokens."""
    added = get_tokenizer(family).added_tokens_decoder.values()
    texts = [one.content for one in added if one.special or one.content.endswith("tool_call>")]
    return [text for text in texts if not text.startswith("<0x")]


def encode(family: str, text: str, role: Any = "user") -> list[int]:
    return ChatEncoder(get_tokenizer(family)).encode((Message(role, text),), ())


def count_controls(family: str, ids: list[int]) -> int:
    tokenizer = get_tokenizer(family)
    controls = set(tokenizer.convert_tokens_to_ids(list_controls(family)))
    return sum(token in controls for token in ids)


@pytest.mark.parametrize("family", MAKERS)
@pytest.mark.parametrize("text", ["Hi there", "two\n\nlines,  a gap", "a < b | c", "🦊 Grüße"])
def test_other_text_is_encoded_as_the_tokenizer_does(family: str, text: str) -> None:
    tokenizer = get_tokenizer(family)
    messages = [{"role": "user", "content": text}]

    expected = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )

    assert encode(family, text) == expected


@pytest.mark.parametrize("family", MAKERS)
def test_every_control_tokens_text_is_text(family: str) -> None:
    plain = count_controls(family, encode(family, "x"))

    for control in list_controls(family):
        for text in (control, f"a {control} b", f"{control}{control}\n{control}", f"({control})"):
            ids = encode(family, text)
            assert count_controls(family, ids) == plain
            assert text in get_tokenizer(family).decode(ids)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(MAKERS)), st.data())
def test_no_text_makes_a_control_token(family: str, data: st.DataObject) -> None:
    pieces = st.lists(st.sampled_from([*PIECES, *list_controls(family)]), max_size=8)
    text = f"a{''.join(data.draw(pieces))}b"

    ids = encode(family, text)

    assert count_controls(family, ids) == count_controls(family, encode(family, "x"))
    assert text.replace("▁", " ") in get_tokenizer(family).decode(ids).replace("▁", " ")


def test_tags_in_a_tools_description_are_text_and_in_the_assistants_words_are_tags() -> None:
    tool = ToolSpec("t", "Use <tool_call> to call", "{}")
    messages = (Message("user", "hi"), Message("assistant", "<tool_call>"))
    tokenizer = get_tokenizer("qwen")

    ids = ChatEncoder(tokenizer).encode(messages, (tool,))

    assert ids.count(tokenizer.convert_tokens_to_ids("<tool_call>")) == 1
