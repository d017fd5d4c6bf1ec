"""Calls that reach tools: `tool`."""

import msgspec

from .types import JsonText, Name


class Tool(msgspec.Struct, frozen=True):
    """Call a tool by name. `arguments` is the text of a JSON object that fits its schema."""

    name: Name
    arguments: JsonText = "{}"


class ToolResult(msgspec.Struct, frozen=True):
    """What the tool said. `truncated` tells that the text was cut at the tool's output cap."""

    text: str
    truncated: bool = False
