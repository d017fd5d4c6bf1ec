"""Whatever a schema asks for, the answer of a model of random weights is valid.

Three kinds of schemas: those of tools, as they are listed, without descriptions (of the Model
Context Protocol's reference servers, npm's server-everything, -filesystem, -memory,
-sequential-thinking and PyPI's mcp-server-git, -time, -fetch; of the four suites of PyPI's
agentdojo 0.1.35), what OpenAI's strict mode allows, and generated ones. Where a schema lets a
string or a list be endless it is bounded first, so that a model of random weights comes to an end;
what fits the bounded schema fits the schema.
"""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from llmos.kernel.executor.engine import Engine
from llmos.kernel.executor.protocol import Done, Failed, Generate, Load
from llmos.syscalls.types import Grammar, Message, Sampling

Schema = dict[str, Any]
DATA = Path(__file__).parent / "data"


def read_schemas(name: str) -> list[Schema]:
    """The schemas of a file of tools, by server or suite."""
    tools: dict[str, dict[str, Schema]] = json.loads((DATA / name).read_text())
    return [schema for each in tools.values() for schema in each.values()]


SERVED = read_schemas("mcp_tools.json")
SUITES = read_schemas("agentdojo_tools.json")
NUM_GENERATED = 50


def strict(**properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


TEXT = {"type": "string", "maxLength": 5}
STRICT: list[Schema] = [
    strict(name=TEXT),
    strict(age={"type": "integer", "minimum": 0, "maximum": 130}),
    strict(ratio={"type": "number", "exclusiveMinimum": 0, "maximum": 1}),
    strict(even={"type": "integer", "multipleOf": 2, "minimum": 0, "maximum": 1000}),
    strict(done={"type": "boolean"}),
    strict(nothing={"type": "null"}),
    strict(unit={"type": ["string", "null"], "maxLength": 3}),
    strict(kind={"type": "string", "enum": ["red", "grün", "a\nb", '"']}),
    strict(kind={"const": 5}),
    strict(code={"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}),
    strict(day={"type": "string", "format": "date"}),
    strict(at={"type": "string", "format": "date-time"}),
    strict(id={"type": "string", "format": "uuid"}),
    strict(host={"type": "string", "format": "ipv4"}),
    strict(tags={"type": "array", "items": TEXT, "minItems": 1, "maxItems": 3}),
    strict(pair={"type": "array", "prefixItems": [TEXT, {"type": "boolean"}], "items": False}),
    strict(inner=strict(deeper=strict(deepest=TEXT))),
    strict(item={"anyOf": [strict(a=TEXT), strict(b={"type": "boolean"})]}),
    strict(item={"oneOf": [{"type": "boolean"}, strict(b={"type": "null"})]}),
    strict(item={"allOf": [TEXT, {"minLength": 2}]}),
    {**strict(step={"$ref": "#/$defs/step"}), "$defs": {"step": strict(text=TEXT)}},
    strict(value={"type": "boolean"}, next={"anyOf": [{"$ref": "#"}, {"type": "null"}]}),
    {"type": "object", "properties": {"a": TEXT, "b": TEXT}, "additionalProperties": False},
    {"type": "object", "additionalProperties": {"type": "boolean"}, "maxProperties": 2},
    {"type": "array", "items": strict(a={"type": "integer", "minimum": -5, "maximum": 5}),
     "maxItems": 2},
]  # fmt: skip

_names = st.sampled_from(["a", "b c", "é", 'q"', "$x", "0"])
_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-999, 999),
    st.text(st.characters(codec="utf-8"), max_size=4),
)
_leaves: st.SearchStrategy[Schema] = st.one_of(
    st.builds(lambda n: {"type": "string", "maxLength": n}, st.integers(0, 6)),
    st.builds(lambda n: {"type": "string", "minLength": n, "maxLength": n + 2}, st.integers(0, 4)),
    st.builds(lambda p: {"type": "string", "pattern": p},
              st.sampled_from(["^a{1,3}$", "^[0-9]{2}[a-f]?$", "^(x|yy|é)$", "^\\w{2}$"])),
    st.builds(lambda f: {"type": "string", "format": f},
              st.sampled_from(["date", "time", "date-time", "ipv4", "uuid"])),
    st.builds(lambda v: {"enum": v}, st.lists(_scalars, min_size=1, max_size=4)),
    st.builds(lambda v: {"const": v}, _scalars),
    st.builds(lambda a, n: {"type": "integer", "minimum": a, "maximum": a + n},
              st.integers(-99, 99), st.integers(0, 200)),
    st.builds(lambda n: {"type": "integer", "multipleOf": n, "minimum": 0, "maximum": 100},
              st.integers(1, 9)),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["boolean", "null"]}]),
)  # fmt: skip


def _make_object(properties: dict[str, Schema], num_required: int) -> Schema:
    schema = strict(**properties)
    schema["required"] = schema["required"][:num_required]
    return schema


def _grow(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    return st.one_of(
        st.builds(_make_object, st.dictionaries(_names, inner, max_size=3), st.integers(0, 3)),
        st.builds(
            lambda items, n: {"type": "array", "items": items, "maxItems": n},
            inner,
            st.integers(0, 3),
        ),
        st.builds(
            lambda items: {"type": "array", "prefixItems": items, "items": False,
                           "minItems": len(items)},
            st.lists(inner, min_size=1, max_size=2),
        ),
        st.builds(lambda each: {"anyOf": each}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda one: {"$ref": "#/$defs/one", "$defs": {"one": one}}, _leaves),
    )  # fmt: skip


def _has_definitions_inside(schema: Any) -> bool:
    inside = schema.values() if isinstance(schema, dict) else schema
    if not isinstance(schema, dict | list):
        return False
    return any("$ref" in json.dumps(one) for one in inside)


generated = st.recursive(_leaves, _grow, max_leaves=5).filter(
    lambda schema: not _has_definitions_inside(schema)
)


def bound(schema: Any) -> Any:
    """The same schema without endless strings, lists and free properties."""
    if isinstance(schema, list):
        return [bound(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: bound(value) for key, value in schema.items()}
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if "string" in kinds and not {"maxLength", "pattern", "format", "enum"} & set(schema):
        schema["maxLength"] = max(8, schema.get("minLength", 0))
    if "array" in kinds:
        schema.setdefault("maxItems", max(2, schema.get("minItems", 0)))
    if "object" in kinds:
        schema.setdefault("additionalProperties", False)
    if {"integer", "number"} & set(kinds):
        schema.setdefault("maximum", max(99, schema.get("minimum", 0) + 1))
        schema.setdefault("minimum", min(-99, schema["maximum"]))
    if schema.get("format") == "uri":
        schema |= {"format": "ipv4"}
    return schema


def answer_all(engine: Engine, schemas: list[Schema]) -> list[Done | Failed]:
    sampling = Sampling(max_tokens=460, temperature=1.0, seed=11)
    for number, schema in enumerate(schemas):
        grammar = Grammar("json_schema", json.dumps(schema))
        engine.submit(Generate(number, (Message("user", "?"),), sampling=sampling, grammar=grammar))
    ends: dict[int, Done | Failed] = {}
    while engine.has_work:
        ends |= {end.id: end for end in engine.step() if isinstance(end, Done | Failed)}
    return [ends[number] for number in range(len(schemas))]


def count_valid(engine: Engine, schemas: list[Schema]) -> int:
    """How many were answered to the end, every one of them validly; the others were refused."""
    num_valid = 0
    for schema, end in zip(
        schemas, answer_all(engine, [bound(one) for one in schemas]), strict=True
    ):
        if isinstance(end, Failed):
            assert end.error.code == "E_GRAMMAR", end
            continue
        assert end.finish_reason == "stop", (schema, end.text)
        jsonschema.validate(json.loads(end.text), schema)
        num_valid += 1
    return num_valid


@pytest.fixture(scope="module")
def wide(qwen3: Path) -> Engine:
    """An engine for many at once."""
    return Engine(Load(str(qwen3)), num_pages=64 * 34)


def test_answers_fit_the_schemas_of_served_tools(wide: Engine) -> None:
    assert count_valid(wide, SERVED) == len(SERVED) == 52


def test_answers_fit_the_schemas_of_a_benchmarks_tools(wide: Engine) -> None:
    assert count_valid(wide, SUITES) == len(SUITES) == 69


def test_answers_fit_what_strict_mode_allows(wide: Engine) -> None:
    assert count_valid(wide, STRICT) == len(STRICT)


@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(generated, min_size=NUM_GENERATED, max_size=NUM_GENERATED, unique_by=json.dumps))
def test_answers_fit_generated_schemas(wide: Engine, schemas: list[Schema]) -> None:
    assert count_valid(wide, schemas) >= NUM_GENERATED * 9 // 10
