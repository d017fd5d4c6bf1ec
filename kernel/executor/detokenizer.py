"""Sampled token ids to text as it grows, ended by stop strings.

A token may be part of a character, and a stop string may come in parts: text is given out only
when no later token can change or withdraw it.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

_INCOMPLETE = "\ufffd"
_MAX_HELD_TOKENS = 8  # a character has at most four bytes; longer is a true replacement character


class _Decoder:
    """A tokenizer's decoding, special tokens too. Single tokens are remembered."""

    def __init__(self, tokenizer: Any) -> None:
        self._decode = _find_decode(tokenizer)
        self._singles: dict[int, str] = {}

    def __call__(self, tokens: list[int]) -> str:
        if len(tokens) != 1:
            return self._decode(tokens, skip_special_tokens=False)
        text = self._singles.get(tokens[0])
        if text is None:
            text = self._singles[tokens[0]] = self._decode(tokens, skip_special_tokens=False)
        return text


def _find_decode(tokenizer: Any) -> Callable[..., str]:
    """That of the tokenizers library itself where transformers would only pass the call on: what
    it does around it takes twice as long again."""
    from transformers import PreTrainedTokenizerFast

    kind = type(tokenizer)
    is_plain = (kind.decode, kind._decode) == (
        PreTrainedTokenizerFast.decode,
        PreTrainedTokenizerFast._decode,
    )
    if is_plain and not tokenizer.clean_up_tokenization_spaces:
        return tokenizer.backend_tokenizer.decode  # type: ignore[no-any-return]
    return tokenizer.decode  # type: ignore[no-any-return]


find_decoder = lru_cache(maxsize=1)(_Decoder)


class Detokenizer:
    """Decodes one sequence. Tokens of `hidden` leave no text.

    Some tokenizers take the first space off a text: after the tokens of `before`, none does.

    Each token is decoded after the ones just before it, because a tokenizer may write a token
    differently at the beginning of a text.
    """

    def __init__(self, tokenizer: Any, hidden: frozenset[int], before: Sequence[int] = ()) -> None:
        self._decode = find_decoder(tokenizer)
        self._hidden = hidden
        self._ids = list(before)
        self._start = 0
        self._end = len(before)
        self._known = self._decode(self._ids) if before else ""

    def add(self, token: int) -> str:
        """The text that this token completes; empty while a character is incomplete."""
        if token in self._hidden:
            return ""
        self._ids.append(token)
        return self._take(whole=len(self._ids) - self._end >= _MAX_HELD_TOKENS)

    def show(self, token: int) -> str:
        """A token alone; a part of a character is a replacement character."""
        return self._decode([token])

    def finish(self) -> str:
        """What is left, with replacement characters for incomplete ones."""
        return self._take(whole=True)

    def _take(self, *, whole: bool) -> str:
        if self._end == len(self._ids):
            return ""
        text = self._decode(self._ids[self._start :])
        if text.endswith(_INCOMPLETE) and not whole:
            return ""
        fresh = text[len(self._known) :]
        self._start, self._end = self._end, len(self._ids)
        self._known = self._decode(self._ids[self._start :])
        return fresh


class StopChecker:
    """Cuts text before the first of the stop strings."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.is_stopped = False

    def add(self, text: str) -> str:
        """The text that can no longer be part of a stop string."""
        if not self._stops or self.is_stopped:
            return "" if self.is_stopped else text
        self._held += text
        places = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if places:
            self.is_stopped = True
            keep = min(places)
        else:
            keep = len(self._held) - count_held(self._held, self._stops)
        given, self._held = self._held[:keep], self._held[keep:]
        return given

    def finish(self) -> str:
        """What was held back in vain."""
        given, self._held = ("" if self.is_stopped else self._held), ""
        return given


def count_held(text: str, markers: Sequence[str]) -> int:
    """How many characters at the end of `text` are a beginning of one of the markers."""
    longest = max((len(marker) for marker in markers), default=1) - 1
    for size in range(min(longest, len(text)), 0, -1):
        tail = text[-size:]
        if any(marker.startswith(tail) for marker in markers):
            return size
    return 0
