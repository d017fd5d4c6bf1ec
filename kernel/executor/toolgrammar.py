"""The grammar of one tool call, in the form that a model's family was taught.

    hermes    <tool_call>\\n{"name": …, "arguments": …}\\n</tool_call>
    llama     {"name": …, "parameters": …}
    mistral   [TOOL_CALLS][{"name": …, "arguments": …}], or where [ARGS] is a token
              [TOOL_CALLS]NAME[ARGS]{…}

A marker that is a token of its own is asked for as that token.
"""

import json
from collections.abc import Mapping, Sequence

from llmos.syscalls.errors import E_ARG
from llmos.syscalls.types import Grammar, ToolSpec

from .grammar import embed_schema
from .schema import read_schema
from .toolcalls import ARGS_TAG, HERMES_TAGS, MISTRAL_TAG, Family

_LINE_END = "\n"


def write_call_grammar(
    family: Family, tools: Sequence[ToolSpec], choice: str, markers: Mapping[str, int]
) -> Grammar:
    """A call of one of the tools, or of the chosen one.

    `markers` are the special tokens by their text. Raises E_ARG for a tool that is not there and
    E_GRAMMAR for parameters that cannot be enforced.
    """
    chosen = [one for one in tools if choice in ("required", one.name)]
    if not chosen:
        raise E_ARG(f"there is no tool {choice!r} to choose", field="tool_choice")
    calls = [_write_call(family, one, markers) for one in chosen]
    names = " | ".join(f"call_{index}" for index in range(len(calls)))
    rules = [f"call_{index}: {call}" for index, call in enumerate(calls)]
    begin, end = _write_frame(family, markers)
    return Grammar("lark", "\n".join([f"start: {begin} ({names}) {end}", *rules]))


def _write_frame(family: Family, markers: Mapping[str, int]) -> tuple[str, str]:
    """What comes before and after the call."""
    if family == "hermes":
        opening, closing = (_mark(tag, markers) for tag in HERMES_TAGS)
        return f"{opening} {_quote(_LINE_END)}", f"{_quote(_LINE_END)} {closing}"
    if family == "mistral":
        is_named = ARGS_TAG in markers
        tag = _mark(MISTRAL_TAG, markers)
        return (tag, "") if is_named else (f"{tag} {_quote('[')}", _quote("]"))
    return "", ""


def _write_call(family: Family, tool: ToolSpec, markers: Mapping[str, int]) -> str:
    schema = read_schema(tool.parameters)
    schema = {"type": "object", **schema} if isinstance(schema, dict) else {"type": "object"}
    arguments = embed_schema(schema)
    if family == "mistral" and ARGS_TAG in markers:
        return f"{_quote(tool.name)} {_mark(ARGS_TAG, markers)} {arguments}"
    field = "parameters" if family == "llama" else "arguments"
    name = json.dumps(tool.name, ensure_ascii=False)
    opening = f'{{"name": {name}, "{field}": '
    return f"{_quote(opening)} {arguments} {_quote('}')}"


def _mark(text: str, markers: Mapping[str, int]) -> str:
    return f"<[{markers[text]}]>" if text in markers else _quote(text)


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
