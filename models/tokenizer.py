"""The byte-level BPE tokenizer of the demonstration model and its chat template.

Three choices make unseen words easy to copy: every digit is a token; a space is a token of its
own except before the commonest words, so that a name is the same tokens wherever it stands; and
the fixed phrases around tools (Qwen's wording) are one token each, which keeps prompts short.
"""

import json
import random
import re
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from models.dialogues import Dialogue, make_dialogues
from models.tasks_text import CUE_OPENINGS
from models.tasks_tools import SIGNATURES, describe_tool
from models.words import make_word

VOCABULARY = 4096
LONG_COPY_WORDS = 8
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
TOOLS_BEFORE = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
TOOLS_AFTER = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)
PHRASES = (
    TOOLS_BEFORE,
    TOOLS_AFTER,
    '\n{"type": "function", "function": {"name": "',
    '", "description": "',
    '", "parameters": {"type": "object", "properties": {"',
    '": {"type": "string"}',
    '}, "required": [',
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    '{"name": "',
    '", "arguments": {',
)
TEMPLATE = (Path(__file__).parent / "chat_template.jinja").read_text()


def build_tokenizer(seed: int = 7, num_dialogues: int = 8000) -> PreTrainedTokenizerFast:
    """Trains the vocabulary on generated dialogues and made-up words."""
    dialogues = list(islice(make_dialogues(seed), num_dialogues))
    rng = random.Random(seed)
    texts = [text for dialogue in dialogues for text in _texts(dialogue)]
    texts += ["system\n", "user\n", "assistant\n"] * num_dialogues
    texts += [" ".join(_made_up(rng) for _ in range(8)) for _ in range(3000)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_pattern(dialogues)), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(PHRASES),
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        max_token_length=12,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(phrase, normalized=False) for phrase in PHRASES])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[START],
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )
    fast.chat_template = TEMPLATE
    return fast


def render(tokenizer: PreTrainedTokenizerFast, dialogue: Dialogue) -> tuple[list[int], list[int]]:
    """Token ids of the dialogue, and for each whether an assistant wrote it (1) or not (0).

    A reply's closing <|im_end|> counts as written. The text is the chat template's.
    """
    text = tokenizer.apply_chat_template(
        dialogue.messages, tools=dialogue.tools or None, tokenize=False
    )
    ids: list[int] = []
    marks: list[int] = []
    opening = f"{START}assistant\n"
    for index, part in enumerate(text.split(opening)):
        written, rest = ("", part)
        if index:
            written, rest = part.split(END, 1)
            written += END
        for piece, mark in ((opening if index else "", 0), (written, 1), (rest, 0)):
            new = tokenizer.encode(piece, add_special_tokens=False) if piece else []
            ids += new
            marks += [mark] * len(new)
    return ids, marks


def find_pieces(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The tokens that are letters alone and neither a common word nor part of a tool."""
    vocabulary = tokenizer.get_vocab()
    tools = json.dumps([describe_tool(name) for name in SIGNATURES])
    kept = set(tokenizer.encode(tools, add_special_tokens=False))
    return sorted(
        token
        for text, token in vocabulary.items()
        if text.isascii() and text.isalpha() and f"\u0120{text}" not in vocabulary
        if token not in kept
    )


def find_words(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The tokens that are a space and a common word, without those that mark key sentences."""
    vocabulary = tokenizer.get_vocab()
    kept = set(tokenizer.encode(" ".join(CUE_OPENINGS), add_special_tokens=False))
    return sorted(
        token
        for text, token in vocabulary.items()
        if text.startswith("\u0120") and text[1:].isalpha() and token not in kept
    )


def swap_pieces(
    rng: random.Random, ids: list[int], marks: list[int], pieces: list[int], words: list[int]
) -> tuple[list[int], list[int]]:
    """The dialogue with pieces that are copied replaced by others, the same everywhere.

    So every piece of the vocabulary is copied often, however rare it is in words. Where the only
    reply copies a long text, common words are replaced too: a copy follows the text, not a habit.
    """
    if rng.random() < 0.5:
        return ids, marks
    given = {token for token, mark in zip(ids, marks, strict=True) if not mark}
    written = {token for token, mark in zip(ids, marks, strict=True) if mark}
    copied = given & written
    kinds = [pieces]
    num_replies = sum(mark > before for before, mark in pairwise([0, *marks]))
    if num_replies == 1 and len(copied & set(words)) >= LONG_COPY_WORDS:
        kinds.append(words)
    swap = {
        token: rng.choice(kind)
        for kind in kinds
        for token in sorted(copied & set(kind))
        if rng.random() < 0.6
    }
    return [swap.get(token, token) for token in ids], marks


def _texts(dialogue: Dialogue) -> list[str]:
    texts = []
    for message in dialogue.messages:
        texts.append(message["content"])
        for call in message.get("tool_calls", ()):
            texts.append(json.dumps(call["function"], ensure_ascii=False))
    for tool in dialogue.tools[:1]:
        texts.append(json.dumps(tool))
    return texts


def _made_up(rng: random.Random) -> str:
    word = make_word(rng)
    return word.capitalize() if rng.random() < 0.4 else word


def _pattern(dialogues: list[Dialogue]) -> str:
    """Qwen's split, but only the commonest words that are no filler take a space before them."""
    counts: Counter[str] = Counter()
    for dialogue in dialogues:
        parts = {part for filler in dialogue.fillers for part in re.findall(r"[^\W\d_]+", filler)}
        for text in _texts(dialogue):
            counts.update(
                word for word in re.findall(r"[A-Za-z]+", text) if word.lower() not in parts
            )
    common = sorted(word for word, count in counts.most_common(500) if count >= 20)
    common += ["system", "user"]
    return (
        rf" ?(?:{'|'.join(common)})(?!\p{{L}})|'(?:s|t|m|d|re|ve|ll)(?!\p{{L}})"
        r"|\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+"
    )
