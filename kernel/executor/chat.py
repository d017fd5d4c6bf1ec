"""Messages to token ids, by the chat template that comes with the model.

A control token's text inside a message is text: it is marked before rendering and encoded apart,
so that nobody can end a turn or open another one by writing `<|im_end|>`. Control tokens are the
tokenizer's special ones and the tags that its template writes, such as `<tool_call>`; only what
the assistant said may hold tags.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

from llmos.syscalls.errors import E_ARG, E_CONTEXT
from llmos.syscalls.types import Message, ToolCall, ToolSpec

from .template import MAX_RENDERED_CHARS, ChatTemplate

_TAG = re.compile(r"[<\[|]\S+[>\]|]")


class ChatEncoder:
    """A tokenizer and its chat template."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._template = ChatTemplate(tokenizer)
        added = tokenizer.added_tokens_decoder.values()
        source = str(tokenizer.chat_template)
        tags = {one.content for one in added if _TAG.fullmatch(one.content)}
        self._specials = {one.content for one in added if one.special}
        self._special = _match_any(self._specials)
        self._control = _match_any(self._specials | {tag for tag in tags if tag in source})

    @property
    def template_text(self) -> str:
        """The source of the template that a conversation with tools uses."""
        return self._template.text

    @property
    def warnings(self) -> tuple[str, ...]:
        """Lines for the person who chose the model."""
        return self._template.warnings

    def encode(self, messages: tuple[Message, ...], tools: tuple[ToolSpec, ...]) -> list[int]:
        """The prompt's token ids, up to where the assistant's turn begins.

        Raises E_ARG for messages that the template refuses, E_CONTEXT for text past the cap,
        E_MODEL for a template that fails or does not end.
        """
        num_chars = sum(len(message.content) for message in messages)
        if num_chars > MAX_RENDERED_CHARS:
            raise E_CONTEXT(
                f"the messages have {num_chars} characters; a prompt holds {MAX_RENDERED_CHARS}"
            )
        given = [_describe_message(one) for one in messages]
        tooling = _describe_tools(tools)
        opening, closing = _pick_marks(json.dumps([given, tooling], ensure_ascii=False))
        marks = opening + r"\g<0>" + closing
        marked = [
            _mark(one, self._special if one["role"] == "assistant" else self._control, marks)
            for one in given
        ]
        text = self._render_or_merge(marked, _mark(tooling, self._control, marks))
        return self._encode_marked(text, opening, closing)

    def encode_answer(self, text: str) -> list[int]:
        """The token ids of a text where the assistant's turn has begun; special tokens are text."""
        return self._encode_piece(text, as_text=True, is_first=False)

    def _render_or_merge(self, messages: list[Any], tools: list[Any]) -> str:
        """Some templates refuse a system message: its text then opens the user's first."""
        try:
            return self._template.render(messages, tools)
        except E_ARG:
            if len(messages) < 2 or messages[0]["role"] != "system":
                raise
            first = {**messages[1]}
            first["content"] = f"{messages[0]['content']}\n\n{first['content']}"
            return self._template.render([first, *messages[2:]], tools)

    def _encode_marked(self, text: str, opening: str, closing: str) -> list[int]:
        """Token ids, with marked pieces as plain text. A mark that lost its partner is dropped."""
        pieces = re.split(f"{opening}({self._control.pattern}){closing}|[{opening}{closing}]", text)
        ids = self._encode_piece(pieces[0] or "", as_text=False, is_first=True)
        for index, piece in enumerate(pieces[1:], 1):
            if piece and index % 2:
                ids += self._encode_control(piece)
            elif piece:
                ids += self._encode_piece(piece, as_text=False, is_first=False)
        return ids

    def _encode_control(self, piece: str) -> list[int]:
        """A control token's text as text. The tokenizer has no option for tags: halves are none."""
        middle = 0 if piece in self._specials else len(piece) // 2
        return [
            token
            for part in (piece[:middle], piece[middle:])
            if part
            for token in self._encode_piece(part, as_text=True, is_first=False)
        ]

    def _encode_piece(self, piece: str, *, as_text: bool, is_first: bool) -> list[int]:
        """A later piece follows a character that is taken off again: some tokenizers add a space
        to the beginning of a text. Two are tried, as the piece may merge with the first."""

        def encode(text: str) -> list[int]:
            begins = is_first and not self._template.exists
            ids = self._tokenizer.encode(
                text, add_special_tokens=begins, split_special_tokens=as_text
            )
            return list(ids)

        for before in () if is_first else ("\n", "|"):
            taken = encode(before)
            joined = encode(before + piece)
            if joined[: len(taken)] == taken:
                return joined[len(taken) :]
        return encode(piece)


def _match_any(texts: Iterable[str]) -> re.Pattern[str]:
    """A pattern of one of the texts, the longest that fits."""
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def _mark(value: Any, control: re.Pattern[str], marks: str) -> Any:
    """The same value with each match in its strings replaced by `marks`."""
    if isinstance(value, str):
        return control.sub(marks, value)
    if isinstance(value, dict):
        return {
            _mark(key, control, marks): _mark(item, control, marks) for key, item in value.items()
        }
    if isinstance(value, list):
        return [_mark(item, control, marks) for item in value]
    return value


def _pick_marks(text: str) -> tuple[str, str]:
    """Two private-use characters that are not in the text."""
    unused = [char for char in map(chr, range(0xE000, 0xF900)) if char not in text]
    if len(unused) < 2:
        raise E_ARG("the messages use every private-use character", field="messages")
    return unused[0], unused[1]


def _describe_message(message: Message) -> dict[str, Any]:
    """A message in the shape that chat templates expect."""
    described: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        described["tool_calls"] = [_describe_call(call) for call in message.tool_calls]
    if message.name:
        described["name"] = message.name
    if message.tool_call_id:
        described["tool_call_id"] = message.tool_call_id
    return described


def _describe_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": _parse(call.arguments, "messages")}
    return {"type": "function", "id": call.id, "function": function}


def _describe_tools(tools: tuple[ToolSpec, ...]) -> list[dict[str, Any]]:
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                "parameters": _parse(tool.parameters, "tools"),
            },
        }
        for tool in tools
    ]


def _parse(text: str, field: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise E_ARG(f"not JSON: {error}", field=field) from None
