"""JSON schemas that a grammar can be made of: every keyword is known, none is passed over.

The grammar library refuses some keywords and ignores others that it has never heard of; an answer
would then not fit a schema that was accepted. So what is not known to be enforced is refused here,
by name and place. Annotations, which ask nothing of the answer, are let through.

Answers have one way to write each character, or an escape could spell a name that the schema does
not know by. Control characters that only a number could spell have none: a schema that asks for
one is refused as well.
"""

import json
import re
from typing import Any

from llmos.syscalls.errors import E_GRAMMAR

_MAX_DEPTH = 100
_ANNOTATIONS = frozenset(
    "$schema $id $anchor $comment title description default examples deprecated readOnly writeOnly"
    " discriminator".split()
)
_BOUNDS = frozenset(
    "type enum const required minProperties maxProperties minItems maxItems minLength maxLength"
    " pattern format minimum maximum exclusiveMinimum exclusiveMaximum multipleOf $ref".split()
)
_SCHEMAS_BY_NAME = frozenset({"properties", "patternProperties", "$defs", "definitions"})
_SCHEMAS = frozenset(
    {"items", "additionalProperties", "additionalItems", "prefixItems", "anyOf", "oneOf", "allOf"}
)
_FORMATS = frozenset("date-time date time duration email hostname ipv4 ipv6 uuid uri".split())
_UNWRITABLE = re.compile(r"[\x00-\x07\x0b\x0e-\x1f]")
_UNWRITABLE_PATTERN = re.compile(r"[\x00-\x07\x0b\x0e-\x1f]|\\(?:x[01{]|u00[01]|u\{|[cvae0])")


def read_schema(text: str) -> Any:
    """The schema that a text holds. Raises E_GRAMMAR naming what cannot be enforced."""
    try:
        schema = json.loads(text)
        check_schema(schema)
    except (ValueError, RecursionError) as error:
        raise E_GRAMMAR(f"the schema is not JSON: {error}", field="schema") from None
    return schema


def check_schema(schema: Any, place: str = "#", depth: int = 0) -> None:
    """Return if every keyword of the schema, and of those inside, is one that is enforced."""
    if depth > _MAX_DEPTH:
        raise E_GRAMMAR(f"the schema is more than {_MAX_DEPTH} levels deep", field="schema")
    if isinstance(schema, list):
        for index, item in enumerate(schema):
            check_schema(item, f"{place}/{index}", depth + 1)
    elif isinstance(schema, dict):
        for key, value in schema.items():
            _check_keyword(schema, key, value, place, depth)
    elif not isinstance(schema, bool):
        raise E_GRAMMAR(f"no schema at {_cut(place)}", field="schema")


def _check_keyword(schema: dict[str, Any], key: str, value: Any, place: str, depth: int) -> None:
    if _asks_for_unwritable(key, value):
        _refuse(f"control character in {json.dumps(key)[:60]}", place)
    if key in _SCHEMAS_BY_NAME and isinstance(value, dict):
        for name, item in value.items():
            check_schema(item, f"{place}/{key}/{name}", depth + 1)
    elif key in _SCHEMAS:
        check_schema(value, f"{place}/{key}", depth + 1)
    elif key == "format" and value not in _FORMATS:
        _refuse(f"format {json.dumps(value)[:60]}", place)
    elif key == "minProperties" and _needs_distinct_names(schema, value):
        _refuse("minProperties with more than one name that is not in required", place)
    elif key not in _ANNOTATIONS | _BOUNDS | _SCHEMAS_BY_NAME:
        _refuse(f"keyword {json.dumps(key)[:60]}", place)


def _asks_for_unwritable(key: str, value: Any) -> bool:
    if key in ("pattern", "patternProperties"):
        patterns = value if isinstance(value, dict) else [value]
        return any(_UNWRITABLE_PATTERN.search(str(pattern)) for pattern in patterns)
    if key in ("properties", "required"):
        names = value if isinstance(value, dict | list) else ()
        return any(_UNWRITABLE.search(str(name)) for name in names)
    return key in ("enum", "const") and _holds_unwritable(value)


def _holds_unwritable(value: Any) -> bool:
    if isinstance(value, str):
        return _UNWRITABLE.search(value) is not None
    parts = [*value, *value.values()] if isinstance(value, dict) else value
    return isinstance(parts, list) and any(_holds_unwritable(part) for part in parts)


def _needs_distinct_names(schema: dict[str, Any], least: Any) -> bool:
    """A grammar cannot see that a name comes twice, and two of one name are one property."""
    required = schema.get("required")
    num_required = len(required) if isinstance(required, list) else 0
    return isinstance(least, int) and least > num_required + 1


def _refuse(what: str, place: str) -> None:
    raise E_GRAMMAR(f"the schema's {what} at {_cut(place)} is not supported", field="schema")


def _cut(place: str) -> str:
    return place if len(place) <= 200 else f"{place[:200]}..."
