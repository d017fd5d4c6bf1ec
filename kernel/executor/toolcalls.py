"""Tool calls in a model's text, per family of models, found while the text streams.

    hermes    <tool_call>{"name": …, "arguments": …}</tool_call>               Qwen, Hermes
    llama     {"name": …, "parameters": …}, with or without <|python_tag|>     Llama 3
    mistral   [TOOL_CALLS][{"name": …, "arguments": …}], [TOOL_CALLS]name{…}   Mistral

Text outside of calls goes through as it comes; a possible beginning of a marker is held back until
it is decided. What looks like a call but cannot be read is text.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, Literal

from llmos.syscalls.types import MAX_ARGUMENTS_CHARS, ToolCall

from .detokenizer import count_held

Family = Literal["hermes", "llama", "mistral"]
PYTHON_TAG = "<|python_tag|>"
MISTRAL_TAG = "[TOOL_CALLS]"
ARGS_TAG = "[ARGS]"
HERMES_TAGS = ("<tool_call>", "</tool_call>")
MARKERS = (PYTHON_TAG, MISTRAL_TAG, ARGS_TAG, "[CALL_ID]", *HERMES_TAGS)
_LLAMA_OPENING = re.compile(r'\s*\{\s*"(name|type|function|parameters|arguments)"')
_LLAMA_BEGINNING = re.compile(r'\s*(\{\s*("\w*)?)?')
_MISTRAL_NAMED = re.compile(r"\s*([\w.-]{1,200})(?:\[CALL_ID\]\w+)?(?:\[ARGS\])?\s*(?=\{)")
_decoder = json.JSONDecoder()


def detect_family(template: str, vocabulary: Sequence[str]) -> Family:
    """Which way of calling a model was taught, by its chat template and added tokens."""
    for marker, family in ((MISTRAL_TAG, "mistral"), (HERMES_TAGS[0], "hermes")):
        if marker in template:
            return family  # type: ignore[return-value]
    if PYTHON_TAG in template or PYTHON_TAG in vocabulary:
        return "llama"
    return "mistral" if MISTRAL_TAG in vocabulary else "hermes"


class ToolCallParser:
    """Splits one answer into visible text and calls. Feed text with `add`, then `finish`."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._opening = {"hermes": HERMES_TAGS[0], "llama": PYTHON_TAG, "mistral": MISTRAL_TAG}[
            family
        ]
        self._held = ""
        self._is_inside = False
        self._is_beginning = True
        self.calls: list[ToolCall] = []

    def add(self, text: str) -> str:
        """The text that is certainly no call."""
        self._held += text
        visible = ""
        while True:
            before = (self._held, self._is_inside)
            visible += self._take_inside() if self._is_inside else self._take_outside()
            if (self._held, self._is_inside) == before:
                return visible

    def finish(self) -> str:
        """What is left as text; a call that lacks only its end counts."""
        text, self._held = self._held, ""
        if not self._is_inside:
            return text
        read = {"hermes": self._read_hermes, "llama": _read_llama, "mistral": _read_mistral}
        calls, rest = read[self._family](text)
        if not calls:
            return text
        self._accept(calls)
        return rest

    def _take_outside(self) -> str:
        if self._family == "llama" and self._is_beginning:
            if _LLAMA_OPENING.match(self._held):
                self._is_inside = True
                return ""
            if _LLAMA_BEGINNING.fullmatch(self._held):
                return ""
        at = self._held.find(self._opening)
        self._is_inside = at >= 0
        keep = at if at >= 0 else len(self._held) - count_held(self._held, (self._opening,))
        visible, self._held = self._held[:keep], self._held[keep:]
        self._is_beginning = self._is_beginning and not visible
        return visible

    def _take_inside(self) -> str:
        """Hermes calls end with their tag; the others last until the text ends."""
        if self._family != "hermes" or HERMES_TAGS[1] not in self._held:
            return ""
        end = self._held.index(HERMES_TAGS[1]) + len(HERMES_TAGS[1])
        whole, self._held = self._held[:end], self._held[end:]
        self._is_inside = False
        calls, _ = self._read_hermes(whole)
        self._accept(calls)
        return "" if calls else whole

    def _read_hermes(self, text: str) -> tuple[list[ToolCall], str]:
        body = text.removeprefix(HERMES_TAGS[0]).removesuffix(HERMES_TAGS[1])
        value, rest = _read_json(body)
        call = _make_call(value)
        return ([call], "") if call and not rest.strip() else ([], text)

    def _accept(self, calls: Sequence[ToolCall]) -> None:
        """Calls get ids of nine letters and digits, the form that the strictest template wants."""
        for call in calls:
            self.calls.append(ToolCall(call.name, call.arguments, f"call{len(self.calls):05d}"))


def _read_llama(text: str) -> tuple[list[ToolCall], str]:
    """One or more objects, parted by semicolons."""
    rest = text.strip().removeprefix(PYTHON_TAG)
    calls: list[ToolCall] = []
    while rest.strip():
        value, rest = _read_json(rest)
        call = _make_call(value)
        if call is None:
            return [], text
        calls.append(call)
        rest = rest.lstrip().removeprefix(";").replace(PYTHON_TAG, "", 1)
    return calls, ""


def _read_mistral(text: str) -> tuple[list[ToolCall], str]:
    """A list of calls, or names each followed by its arguments; text may follow."""
    rest = text.strip().removeprefix(MISTRAL_TAG)
    if rest.lstrip().startswith("["):
        values, rest = _read_json(rest)
        calls = [_make_call(value) for value in values] if isinstance(values, list) else []
        found = [call for call in calls if call]
        return (found, rest) if found and len(found) == len(calls) else ([], text)
    named: list[ToolCall] = []
    while match := _MISTRAL_NAMED.match(rest):
        value, rest = _read_json(rest[match.end() :])
        call = _make_call({"name": match[1], "arguments": value})
        if call is None:
            return [], text
        named.append(call)
        rest = rest.lstrip().removeprefix(MISTRAL_TAG)
    return named, rest


def _read_json(text: str) -> tuple[Any, str]:
    """The JSON value at the beginning, and the text after it; None where there is none."""
    start = len(text) - len(text.lstrip())
    try:
        value, end = _decoder.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None, text
    return value, text[end:]


def _make_call(value: Any) -> ToolCall | None:
    """A call from {"name", "arguments" or "parameters"}, or None."""
    if not isinstance(value, dict):
        return None
    value = value["function"] if isinstance(value.get("function"), dict) else value
    name = value.get("name")
    arguments = value.get("arguments", value.get("parameters", {}))
    if not isinstance(name, str) or not 0 < len(name) <= 200 or not isinstance(arguments, dict):
        return None
    text = json.dumps(arguments, ensure_ascii=False)
    return ToolCall(name, text) if len(text) <= MAX_ARGUMENTS_CHARS else None
