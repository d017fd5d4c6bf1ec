"""Messages to token ids, by the chat template that comes with the model.

Templates are rendered in transformers' Jinja sandbox, and their output is capped. A special
token's text inside a message is text: it is marked before rendering and encoded apart, so that
nobody can end a turn or open another one by writing `<|im_end|>`.
"""

import json
import re
from typing import Any

import jinja2
from transformers.utils.chat_template_utils import _compile_jinja_template

from llmos.syscalls.errors import E_ARG, E_CONTEXT, E_MODEL
from llmos.syscalls.types import Message, ToolCall, ToolSpec

MAX_RENDERED_CHARS = 4_000_000
_FALLBACK = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"
)
_TEMPLATE_FAULTS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


class ChatEncoder:
    """A tokenizer and its chat template. Models without one get `role: content` lines."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._has_template = bool(tokenizer.chat_template)
        specials = sorted(
            (one.content for one in tokenizer.added_tokens_decoder.values() if one.special),
            key=len,
            reverse=True,
        )
        self._special = re.compile("|".join(map(re.escape, specials)) or r"(?!)")

    @property
    def template_text(self) -> str:
        """The source of the template that a conversation with tools uses."""
        return str(self._choose_template(with_tools=True))

    def encode(self, messages: tuple[Message, ...], tools: tuple[ToolSpec, ...]) -> list[int]:
        """The prompt's token ids, up to where the assistant's turn begins.

        Raises E_ARG for messages that the template refuses, E_CONTEXT for text past the cap,
        E_MODEL for a template that fails.
        """
        data: list[Any] = [[_describe_message(one) for one in messages], _describe_tools(tools)]
        opening, closing = _pick_marks(json.dumps(data, ensure_ascii=False))
        marked = self._mark(data, opening, closing)
        text = self._render_or_merge(marked[0], marked[1])
        return self._encode_marked(text, opening, closing)

    def _render_or_merge(self, messages: list[Any], tools: Any) -> str:
        """Some templates refuse a system message: its text then opens the user's first."""
        try:
            return self._render(messages, tools)
        except E_ARG:
            if len(messages) < 2 or messages[0]["role"] != "system":
                raise
            first = {**messages[1]}
            first["content"] = f"{messages[0]['content']}\n\n{first['content']}"
            return self._render([first, *messages[2:]], tools)

    def _choose_template(self, *, with_tools: bool) -> Any:
        if not self._has_template:
            return _FALLBACK
        try:
            return self._tokenizer.get_chat_template(None, tools=[{}] if with_tools else None)
        except ValueError as error:
            raise E_MODEL(f"no chat template can be chosen: {error}") from None

    def _render(self, messages: list[Any], tools: Any) -> str:
        pieces: list[str] = []
        num_chars = 0
        try:
            template = _compile_jinja_template(self._choose_template(with_tools=bool(tools)))
            for piece in template.generate(
                messages=messages,
                tools=tools or None,
                add_generation_prompt=True,
                **self._tokenizer.special_tokens_map,
            ):
                pieces.append(piece)
                num_chars += len(piece)
                if num_chars > MAX_RENDERED_CHARS:
                    raise E_CONTEXT(f"the prompt is over {MAX_RENDERED_CHARS} characters long")
        except _TEMPLATE_FAULTS as error:
            if type(error) is jinja2.TemplateError:
                reason = f"the model's chat template refuses these messages: {error}"
                raise E_ARG(reason, field="messages") from None
            raise E_MODEL(f"the chat template fails: {error}") from None
        return "".join(pieces)

    def _mark(self, value: Any, opening: str, closing: str) -> Any:
        """The same value with marks around each special token's text in its strings."""
        if isinstance(value, str):
            return self._special.sub(lambda match: opening + match[0] + closing, value)
        if isinstance(value, dict):
            return {
                self._mark(key, opening, closing): self._mark(item, opening, closing)
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [self._mark(item, opening, closing) for item in value]
        return value

    def _encode_marked(self, text: str, opening: str, closing: str) -> list[int]:
        """Token ids, with marked pieces as plain text. A mark that lost its partner is dropped."""
        pieces = re.split(f"{opening}({self._special.pattern}){closing}|[{opening}{closing}]", text)
        ids = self._encode_piece(pieces[0] or "", as_text=False, is_first=True)
        for index, piece in enumerate(pieces[1:], 1):
            if piece:
                ids += self._encode_piece(piece, as_text=index % 2 == 1, is_first=False)
        return ids

    def _encode_piece(self, piece: str, *, as_text: bool, is_first: bool) -> list[int]:
        """A later piece follows a newline that is taken off again: some tokenizers add a space
        to the beginning of a text."""

        def encode(text: str) -> list[int]:
            begins = is_first and not self._has_template
            ids = self._tokenizer.encode(
                text, add_special_tokens=begins, split_special_tokens=as_text
            )
            return list(ids)

        newline = [] if is_first else encode("\n")
        joined = encode("\n" + piece) if newline else encode(piece)
        return joined[len(newline) :] if joined[: len(newline)] == newline else encode(piece)


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
