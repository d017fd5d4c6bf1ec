"""A line of the shell as words: shlex quoting, and `&` at the end for the background."""

import shlex
from typing import NamedTuple

from llmos.syscalls.errors import E_ARG

OPERATORS = "&|;<>"


class Command(NamedTuple):
    """What a line asks for. `words` is empty for an empty line."""

    words: list[str]
    background: bool


def parse_line(line: str) -> Command:
    """The words of a line. E_ARG for a quote without end and for operators the shell lacks."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=OPERATORS)
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        words = list(lexer)
    except ValueError:
        raise E_ARG('a quote has no end; write \\\' or "…" where one is meant as such') from None
    background = words[-1:] == ["&"]
    if background:
        words.pop()
    for word in words:
        if word and set(word) <= set(OPERATORS):
            raise E_ARG(f"{word} has no meaning here; quote words that hold it")
    if background and not words:
        raise E_ARG("& follows a command")
    return Command(words, background)
