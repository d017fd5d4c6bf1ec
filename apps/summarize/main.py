"""summarize: gives the key sentences of a text file, part by part.

Parts are generated side by side, MAX_AT_ONCE at a time, which is what batching is for. A sentence
that a model meant to quote and got a little wrong is given as it stands in the text.
"""

import re
from collections.abc import Iterator
from difflib import get_close_matches

from llmos import System, app
from llmos.syscalls.errors import E_ARG

SYSTEM = "You summarize texts."
PROMPT = "Give the key sentences of the text.\n\nText:\n"
MAX_AT_ONCE = 8
MEANT_AS_QUOTE = 0.7  # difflib's ratio of equal characters
_PARAGRAPH_END = re.compile(r"\n\s*\n")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@app
async def main(sys: System, file: str, *, max_tokens: int = 200, chunk_chars: int = 1200) -> None:
    """Summarize FILE. A part has at most CHUNK_CHARS characters; MAX_TOKENS is for each part."""
    if chunk_chars < 1:
        raise E_ARG(f"--chunk-chars is {chunk_chars}; it must be at least 1", field="chunk_chars")
    chunks = split_text(await sys.read_file(file), chunk_chars)
    if not chunks:
        raise E_ARG(f"{file} has no text", field="file")
    for at in range(0, len(chunks), MAX_AT_ONCE):
        parts = chunks[at : at + MAX_AT_ONCE]
        for text in await sys.gather(*(summarize(sys, part, max_tokens) for part in parts)):
            await sys.print(text)


async def summarize(sys: System, text: str, max_tokens: int) -> str:
    """The key sentences of one part."""
    answer = await sys.generate(PROMPT + text, system=SYSTEM, max_tokens=max_tokens)
    return quote(answer.text, text)


def quote(summary: str, text: str) -> str:
    """The summary, its near-quotations replaced by the sentences of the text that they mean."""
    sentences = split_sentences(text)
    quoted = []
    for sentence in split_sentences(summary):
        close = get_close_matches(sentence, sentences, n=1, cutoff=MEANT_AS_QUOTE)
        quoted.append(close[0] if close else sentence)
    return " ".join(dict.fromkeys(quoted))


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, each on one line."""
    joined = " ".join(text.split())
    return [sentence for sentence in _SENTENCE_END.split(joined) if sentence]


def split_text(text: str, max_chars: int) -> list[str]:
    """The text in parts of at most `max_chars`, cut between paragraphs where that can be.

    A longer paragraph is cut between sentences, a longer sentence anywhere. No part is empty.
    """
    chunks: list[str] = []
    for piece, joint in split_pieces(text, max_chars):
        if chunks and len(chunks[-1]) + len(joint) + len(piece) <= max_chars:
            chunks[-1] += joint + piece
        else:
            chunks.append(piece)
    return chunks


def split_pieces(text: str, max_chars: int) -> Iterator[tuple[str, str]]:
    """Paragraphs, or the sentences of long ones, each with what joins it to the piece before."""
    for paragraph in filter(None, map(str.strip, _PARAGRAPH_END.split(text))):
        joint = "\n\n"
        sentences = [paragraph]
        if len(paragraph) > max_chars:
            sentences = _SENTENCE_END.split(paragraph)
        for sentence in sentences:
            for start in range(0, len(sentence), max_chars):
                yield sentence[start : start + max_chars], joint
                joint = " " if start + max_chars >= len(sentence) else ""
