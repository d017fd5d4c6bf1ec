"""Schemas: what is enforced is let through, what is not is named."""

import json
from contextlib import suppress

import pytest

from llmos.kernel.executor.schema import read_schema
from llmos.syscalls.errors import E_GRAMMAR

OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def refuse(schema: object) -> E_GRAMMAR:
    with pytest.raises(E_GRAMMAR) as caught:
        read_schema(json.dumps(schema))
    assert caught.value.field == "schema"
    return caught.value


@pytest.mark.parametrize(
    "keyword",
    ["not", "if", "uniqueItems", "contains", "propertyNames", "nullable", "x-guidance", "mistyped"],
)
def test_a_keyword_that_is_not_enforced_is_named(keyword: str) -> None:
    assert f'keyword "{keyword}" at #' in refuse({"type": "string", keyword: True}).message


def test_a_keyword_is_found_wherever_it_is() -> None:
    inside = {
        "type": "array",
        "items": {"anyOf": [OBJECT, {"patternProperties": {"^a": {"not": {}}}}]},
    }

    assert "#/items/anyOf/1/patternProperties/^a" in refuse(inside).message


def test_what_a_schema_says_about_itself_is_let_through() -> None:
    said = {
        "title": "t",
        "description": "d",
        "default": 1,
        "examples": [{"not": 1}],
        "$comment": "",
    }

    assert read_schema(json.dumps({**OBJECT, **said}))["title"] == "t"


def test_a_property_may_be_named_like_a_keyword() -> None:
    assert read_schema('{"properties": {"not": {"type": "string"}, "if": true}}')


@pytest.mark.parametrize("name", ["regex", "int32", "unknown", 5])
def test_a_format_that_is_not_enforced_is_named(name: object) -> None:
    assert f"format {json.dumps(name)}" in refuse({"type": "string", "format": name}).message


def test_a_number_of_distinct_names_cannot_be_asked_for() -> None:
    assert "minProperties" in refuse({"type": "object", "minProperties": 2}).message
    assert read_schema('{"type": "object", "minProperties": 1}')


@pytest.mark.parametrize("text", ["[", "3", "[1]", "null", '"a"', "[" * 100_000])
def test_what_is_no_schema_is_refused(text: str) -> None:
    with pytest.raises(E_GRAMMAR):
        read_schema(text)


def test_depth_has_a_limit() -> None:
    deep = '{"items":' * 101 + "{}" + "}" * 101

    with pytest.raises(E_GRAMMAR, match="levels deep"):
        read_schema(deep)


@pytest.mark.parametrize(
    "schema",
    [
        {"const": "a\x17"},
        {"enum": ["a", {"b": ["\x00"]}]},
        {"properties": {"\x01": True}},
        {"required": ["\x0b"]},
        {"pattern": "^a\\x0b$"},
        {"patternProperties": {"\\u0001": {}}},
    ],
)
def test_a_character_that_answers_cannot_hold_is_refused(schema: object) -> None:
    assert "control character" in refuse(schema).message


@pytest.mark.parametrize("value", [3, None, "text", True, {"a": 1}])
@pytest.mark.parametrize("keyword", ["properties", "required", "enum", "items", "pattern", "anyOf"])
def test_a_keyword_with_a_value_of_another_kind_is_no_fault(keyword: str, value: object) -> None:
    with suppress(E_GRAMMAR):
        assert read_schema(json.dumps({keyword: value})) == {keyword: value}
