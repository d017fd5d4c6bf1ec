"""Answers that are values: a schema, a regex or a grammar on the way out, an object on the way in.

A schema is a type that msgspec knows (a Struct, a Literal, list[int], ...) or a dict that is a JSON
schema. A type's objects are closed: the model may not invent fields.
"""

import json
from typing import Any, Generic, TypeVar

import msgspec

from .errors import E_ARG, E_LIMIT, E_MODEL
from .generate import Choice, Generation
from .types import Grammar

T = TypeVar("T")


class Structured(Generation, Generic[T], frozen=True, kw_only=True):
    """A generation and what its branches say, decoded."""

    values: tuple[T, ...]

    @property
    def value(self) -> T:
        """What the first branch says."""
        return self.values[0]


def write_grammar(schema: Any, regex: str | None, grammar: str | None) -> Grammar | None:
    """The one that is given, in its wire form. Raises E_ARG for two, or for what is no schema."""
    given = {"schema": schema, "regex": regex, "grammar": grammar}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise E_ARG(f"{' and '.join(names)} are given; an answer fits one", field=names[1])
    if schema is not None:
        return Grammar("json_schema", json.dumps(_write_schema(schema)))
    if regex is not None:
        return Grammar("regex", regex)
    return None if grammar is None else Grammar("lark", grammar)


def _write_schema(schema: Any) -> Any:
    if isinstance(schema, dict):
        return schema
    try:
        return _close(msgspec.json.schema(schema))
    except TypeError as error:
        raise E_ARG(f"no schema can be made of {schema!r}: {error}", field="schema") from None


def _close(schema: Any) -> Any:
    """The same schema, in which objects with named properties have no others."""
    if isinstance(schema, list):
        return [_close(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _close(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        closed.setdefault("additionalProperties", False)
    return closed


def read_objects(answer: Generation, schema: Any) -> Structured[Any]:
    """The answer with its objects.

    Raises E_LIMIT for one that max_tokens has cut off, E_MODEL for one that does not fit the type:
    both with the text.
    """
    kind = Any if isinstance(schema, dict) else schema
    values = tuple(_read(choice, kind) for choice in answer.choices)
    fields = {name: getattr(answer, name) for name in answer.__struct_fields__}
    return Structured(**fields, values=values)


def _read(choice: Choice, kind: Any) -> Any:
    if choice.finish_reason == "length":
        raise E_LIMIT("max_tokens ended the answer before it was whole", partial=choice.text)
    try:
        return msgspec.json.decode(choice.text, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise E_MODEL(f"the answer does not fit its schema: {error}", partial=choice.text) from None
