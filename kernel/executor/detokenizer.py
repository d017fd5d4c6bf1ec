"""Sampled token ids to text as it grows, ended by stop strings.

A token may be part of a character, and a stop string may come in parts: text is given out only
when no later token can change or withdraw it.

Some tokenizers have a token for each byte and make a text of a run of them as a whole: one broken
byte makes all characters of the run unreadable, those too that were given out before it came. Here
bytes become characters one by one, as in a file that is read with broken characters replaced.
"""

import codecs
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

_INCOMPLETE = "\ufffd"
_MAX_OPEN_TOKENS = 16  # of a text that ends in the middle of a character, before it is cut
_MAX_PART_TOKENS = 4  # a character has at most four bytes
_byte_tokens: WeakKeyDictionary[Any, Mapping[int, bytes]] = WeakKeyDictionary()


def find_byte_tokens(tokenizer: Any) -> Mapping[int, bytes]:
    """The tokens that stand for a byte each, in tokenizers that fall back to them."""
    if tokenizer not in _byte_tokens:
        names = [f"<0x{byte:02X}>" for byte in range(256)]
        ids = tokenizer.convert_tokens_to_ids(names)
        known = {one: bytes([byte]) for byte, one in enumerate(ids) if one is not None}
        is_known = tokenizer.convert_ids_to_tokens(list(known)) == names
        is_used = is_known and tokenizer.decode([ids[ord("A")]]) == "A"
        _byte_tokens[tokenizer] = known if is_used else {}
    return _byte_tokens[tokenizer]


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
        self._bytes = find_byte_tokens(tokenizer)
        self._characters = codecs.getincrementaldecoder("utf-8")("replace")
        self._hidden = hidden
        self._ids = list(before)
        self._start = 0
        self._end = len(before)
        self._known = self._decode(self._ids) if before else ""

    def add(self, token: int) -> str:
        """The text that this token completes; empty while a character is incomplete."""
        if token in self._hidden:
            return ""
        if token in self._bytes:
            return self._add_byte(token)
        broken = self._characters.decode(b"", final=True)
        self._ids.append(token)
        return broken + self._take(whole=False)

    def _add_byte(self, token: int) -> str:
        text, is_first = self._take(whole=True), not self._ids
        self._ids.append(token)
        self._start, self._end = len(self._ids) - 1, len(self._ids)
        self._known = self._decode([token])
        if is_first and not self._known:
            return text  # a first space that the tokenizer takes off
        return text + self._characters.decode(self._bytes[token])

    def show(self, token: int) -> str:
        """A token alone; a part of a character is a replacement character."""
        return self._decode([token])

    def finish(self) -> str:
        """What is left, with replacement characters for incomplete ones."""
        return self._take(whole=True) + self._characters.decode(b"", final=True)

    def _take(self, *, whole: bool) -> str:
        if self._end == len(self._ids):
            return ""
        text = self._decode(self._ids[self._start :])
        is_open = text.endswith(_INCOMPLETE) and not whole
        sure = text[:-1] if is_open else text
        fresh = sure[len(self._known) :]
        if is_open:
            self._known = sure
            if len(self._ids) - self._start > _MAX_OPEN_TOKENS:
                self._cut(text)
        else:
            self._start, self._end = self._end, len(self._ids)
            self._known = self._decode(self._ids[self._start :])
        return fresh

    def _cut(self, text: str) -> None:
        """Decode from the last tokens on, where the text falls into two before them."""
        for num_tokens in range(1, _MAX_PART_TOKENS + 1):
            place = len(self._ids) - num_tokens
            first = self._decode(self._ids[self._start : place])
            last = self._decode(self._ids[place:])
            if first + last == text:
                self._start, self._known = place, last[:-1]
                return


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
    """How many characters at the end of `text` are a beginning of one of the markers, none of
    which is in it as a whole."""
    num_held = 0
    for marker in markers:
        at = text.find(marker[0], max(len(text) - len(marker) + 1, 0))
        while at >= 0 and not marker.startswith(text[at:]):
            at = text.find(marker[0], at + 1)
        if at >= 0:
            num_held = max(num_held, len(text) - at)
    return num_held
