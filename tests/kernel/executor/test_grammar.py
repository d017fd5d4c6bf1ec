"""Grammars over tokenizers of each family: a walk at random among what is allowed fits."""

import json
import random
import re
import time
from collections.abc import Callable
from typing import Any

import jsonschema
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from llmos.kernel.executor.detokenizer import Detokenizer
from llmos.kernel.executor.grammar import Constraint, GrammarCompiler
from llmos.kernel.executor.toolcalls import Family, ToolCallParser
from llmos.kernel.executor.toolgrammar import write_call_grammar
from llmos.syscalls.errors import E_BUSY, E_GRAMMAR, SyscallError
from llmos.syscalls.types import Grammar, ToolSpec

from .families import make_metaspace, make_word_piece

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "kind": {"enum": ["a b", "é", "🦊"]},
        "sizes": {"type": "array", "items": {"type": "integer", "maximum": 99}, "maxItems": 3},
    },
    "required": ["name", "kind", "sizes"],
    "additionalProperties": False,
}
SPECIALS = ["<s>", "</s>", "[TOOL_CALLS]", "[ARGS]"]
CORPUS = ['{"name": "the cat", "kind": "é", "sizes": [1, 22, 3]} and some more of words'] * 3
TOOLS = (
    ToolSpec(
        "clock", "Tells", '{"type": "object", "properties": {}, "additionalProperties": false}'
    ),
    ToolSpec("kind", "Sorts", json.dumps(SCHEMA)),
)


def wrap(inner: Tokenizer) -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


def make_byte_level() -> Any:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(CORPUS, trainer)
    return wrap(inner)


def make_sentence_piece_like() -> Any:
    """As Llama 2 has it: a mark for spaces, one more at the beginning, bytes for the rest."""
    inner = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", *SPECIALS, *bytes_], show_progress=False
    )
    inner.train_from_iterator(CORPUS, trainer)
    text = json.loads(inner.to_str())
    for token in text["added_tokens"]:  # as in the real ones, the bytes are ordinary tokens
        token["special"] = token["content"] in SPECIALS
    text["added_tokens"] = [one for one in text["added_tokens"] if one["special"]]
    return wrap(Tokenizer.from_str(json.dumps(text)))


TOKENIZERS = pytest.mark.parametrize(
    "make", [make_byte_level, make_sentence_piece_like], ids=["byte-level", "sentencepiece"]
)


def compile_grammar(tokenizer: Any, grammar: Grammar, num_padding: int = 0) -> Constraint:
    ends = frozenset({tokenizer.eos_token_id})
    num_logits = len(tokenizer) + num_padding
    compiler = GrammarCompiler(tokenizer, num_logits=num_logits, ends=ends)
    compiler.submit(1, grammar)
    while not (known := compiler.collect(wait=True)):
        pass
    ((number, made),) = known
    assert number == 1
    if isinstance(made, SyscallError):
        raise made
    return made


def list_allowed(constraint: Constraint) -> list[int]:
    bits = np.frombuffer(constraint.matcher.compute_bitmask(), np.uint8)
    return [int(token) for token in np.unpackbits(bits, bitorder="little").nonzero()[0]]


def walk(tokenizer: Any, constraint: Constraint, seed: int, hidden: frozenset[int]) -> str:
    """The text of a walk among allowed tokens, to where nothing can follow."""
    before = tokenizer.encode("a", add_special_tokens=False)
    choose, detokenizer, text = random.Random(seed), Detokenizer(tokenizer, hidden, before), ""
    for _ in range(400):
        token = choose.choice(list_allowed(constraint))
        constraint.advance(token)
        assert not constraint.error
        if token == tokenizer.eos_token_id:
            break
        text += detokenizer.add(token)
        if constraint.is_complete:
            break
    return text + detokenizer.finish()


@TOKENIZERS
@pytest.mark.parametrize("seed", range(10))
def test_a_walk_fits_a_schema(make: Callable[[], Any], seed: int) -> None:
    tokenizer = make()
    constraint = compile_grammar(tokenizer, Grammar("json_schema", json.dumps(SCHEMA)))

    text = walk(tokenizer, constraint, seed, frozenset(tokenizer.all_special_ids))

    jsonschema.validate(json.loads(text), SCHEMA)


@TOKENIZERS
@pytest.mark.parametrize("pattern", ["the cat{1,3}", "[é🦊]{1,4}x", "(a| b)*c"])
def test_a_walk_fits_a_regex(make: Callable[[], Any], pattern: str) -> None:
    tokenizer = make()

    for seed in range(5):
        constraint = compile_grammar(tokenizer, Grammar("regex", pattern))
        assert re.fullmatch(pattern, walk(tokenizer, constraint, seed, frozenset()))


@TOKENIZERS
def test_logits_without_a_token_are_never_allowed(make: Callable[[], Any]) -> None:
    tokenizer = make()
    constraint = compile_grammar(tokenizer, Grammar("regex", "(?s:.)*"), num_padding=100)

    assert max(list_allowed(constraint)) < len(tokenizer)


@pytest.mark.parametrize("family", ["hermes", "llama", "mistral"])
@TOKENIZERS
def test_a_call_is_read_back_by_its_familys_parser(make: Callable[[], Any], family: Family) -> None:
    tokenizer = make()
    added = tokenizer.get_added_vocab()

    for markers in ({}, {one: added[one] for one in ("[TOOL_CALLS]", "[ARGS]")}):
        grammar = write_call_grammar(family, TOOLS, "kind", markers)
        text = walk(tokenizer, compile_grammar(tokenizer, grammar), 1, frozenset())
        parser = ToolCallParser(family)
        visible = parser.add(text) + parser.finish()

        (call,) = parser.calls
        assert (call.name, visible) == ("kind", "")
        jsonschema.validate(json.loads(call.arguments), SCHEMA)


def test_who_waits_behind_slow_ones_is_told_to_come_again() -> None:
    tokenizer = make_byte_level()
    compiler = GrammarCompiler(tokenizer, num_logits=len(tokenizer), ends=frozenset({1}))
    slow = "start: " + "|".join(f'"{number}"' for number in range(9000))

    for number in range(200):
        compiler.submit(number, Grammar("lark", slow))
    ends: dict[int, object] = {}
    started = time.monotonic()
    while compiler.has_work:
        ends |= dict(compiler.collect(wait=True))

    assert time.monotonic() - started < 2.5
    assert isinstance(ends[199], E_BUSY)


@TOKENIZERS
@pytest.mark.parametrize("text", ["</s>", "[ARGS]", "a</s>b"])
def test_text_that_is_spelled_like_a_special_token_is_text(
    make: Callable[[], Any], text: str
) -> None:
    tokenizer = make()
    constraint = compile_grammar(tokenizer, Grammar("json_schema", json.dumps({"const": text})))

    answer = walk(tokenizer, constraint, 0, frozenset(tokenizer.all_special_ids))

    assert json.loads(answer) == text


def test_a_grammar_may_have_options_of_its_own() -> None:
    grammar = '%llguidance {"allow_initial_skip": true}\nstart: "a"\n%ignore / /'

    constraint = compile_grammar(make_byte_level(), Grammar("lark", grammar))

    assert len(list_allowed(constraint)) >= 2


def test_a_refusal_shows_the_grammar_as_it_was_given() -> None:
    with pytest.raises(SyscallError, match="unknown name") as caught:
        compile_grammar(make_byte_level(), Grammar("lark", "start: x"))

    assert "llguidance" not in caught.value.message
    assert caught.value.field == "grammar"


@pytest.mark.parametrize("make", [make_metaspace, make_word_piece])
def test_a_tokenizer_that_the_library_does_not_know_is_a_refusal(make: Callable[[], Any]) -> None:
    with pytest.raises(E_GRAMMAR, match="tokenizer"):
        compile_grammar(make(), Grammar("regex", "a"))


def test_a_refusal_of_a_schema_shows_nothing_that_was_put_around_it() -> None:
    with pytest.raises(E_GRAMMAR, match="Invalid type: foo") as caught:
        compile_grammar(make_byte_level(), Grammar("json_schema", '{"type": "foo"}'))

    assert "x-guidance" not in caught.value.message
    assert caught.value.field == "schema"
