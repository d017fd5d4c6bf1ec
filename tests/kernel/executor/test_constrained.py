"""Answers that have to fit a grammar, on a model of random weights."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import jsonschema
import msgspec
import pytest

from llmos.kernel.executor.engine import Engine
from llmos.kernel.executor.protocol import Done, Failed, Generate, Load, Output, Token
from llmos.syscalls.types import Grammar, Message, Sampling, ToolSpec

from .conftest import run

HOT = Sampling(max_tokens=100, temperature=1.0, seed=3)
SCHEMA = {
    "type": "object",
    "properties": {
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["x", "é", None]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 3},
    },
    "required": ["age", "kind", "tags"],
    "additionalProperties": False,
}
TOOLS = (
    ToolSpec("clock", "Tells the time", '{"type": "object", "additionalProperties": false}'),
    ToolSpec(
        "add",
        "Adds",
        '{"type": "object", "properties": {"n": {"$ref": "#/$defs/digit"}}, "required": ["n"],'
        ' "additionalProperties": false, "$defs": {"digit": {"enum": [1, 2, 3]}}}',
    ),
)


def ask(number: int, grammar: Grammar | None, sampling: Sampling = HOT) -> Generate:
    return Generate(number, (Message("user", "hi"),), sampling=sampling, grammar=grammar)


def use_schema(schema: object) -> Grammar:
    return Grammar("json_schema", json.dumps(schema))


def find_ends(engine: Engine, *requests: Generate) -> dict[int, Done | Failed]:
    return {one.id: one for one in run(engine, *requests) if isinstance(one, Done | Failed)}


def answer(engine: Engine, request: Generate) -> Done:
    end = find_ends(engine, request)[request.id]
    assert isinstance(end, Done), end
    return end


def fail(engine: Engine, grammar: Grammar) -> Failed:
    started = time.monotonic()
    end = find_ends(engine, ask(1, grammar))[1]
    assert time.monotonic() - started < 1.5
    assert isinstance(end, Failed), end
    assert end.error.code == "E_GRAMMAR"
    return end


@pytest.mark.parametrize("seed", range(5))
def test_an_answer_fits_its_schema(engine: Engine, seed: int) -> None:
    done = answer(engine, ask(1, use_schema(SCHEMA), msgspec.structs.replace(HOT, seed=seed)))

    jsonschema.validate(json.loads(done.text), SCHEMA)
    assert done.finish_reason == "stop"


@pytest.mark.parametrize("pattern", ["[0-9]{3}-[a-z]{2}", "(a+)+$", "(yes|no)!?", "ü+x", "a{0,3}"])
def test_an_answer_fits_its_regex_as_a_whole(engine: Engine, pattern: str) -> None:
    done = answer(engine, ask(1, Grammar("regex", pattern)))

    assert re.fullmatch(pattern, done.text) or done.finish_reason == "length"


def test_an_answer_fits_its_lark_grammar(engine: Engine) -> None:
    grammar = 'start: "(" item ("," item)~0..3 ")"\nitem: "a" | "b" | start'

    text = answer(engine, ask(1, Grammar("lark", grammar))).text

    assert set(text) <= set("(),ab")
    assert text.count("(") == text.count(")") > 0


def test_an_answer_that_is_cut_off_says_so(engine: Engine) -> None:
    short = msgspec.structs.replace(HOT, max_tokens=2)

    done = answer(engine, ask(1, use_schema(SCHEMA), short))

    assert done.finish_reason == "length"


def test_greedy_with_a_grammar_takes_the_likeliest_that_fits(engine: Engine) -> None:
    greedy = msgspec.structs.replace(HOT, temperature=0.0)

    texts = {answer(engine, ask(n, Grammar("regex", "[ab]{6}"), greedy)).text for n in (1, 2)}

    assert len(texts) == 1
    assert re.fullmatch("[ab]{6}", texts.pop())


def test_a_constrained_answer_does_not_see_its_neighbours(engine: Engine) -> None:
    alone = [answer(engine, ask(1, use_schema(SCHEMA))), answer(engine, ask(2, None))]

    together = find_ends(
        engine, ask(1, use_schema(SCHEMA)), ask(2, None), ask(3, Grammar("regex", "a+"))
    )

    for one in alone:
        other = together[one.id]
        assert isinstance(other, Done)
        assert (other.text, other.tokens) == (one.text, one.tokens)


def test_it_goes_on_after_tokens_that_another_executor_gave(engine: Engine) -> None:
    request = ask(1, use_schema(SCHEMA))
    whole = answer(engine, request)

    for size in range(0, len(whole.tokens), 4):
        again = msgspec.structs.replace(request, emitted=whole.tokens[:size])
        assert answer(engine, again).text == whole.text


@pytest.mark.parametrize(
    ("grammar", "word"),
    [
        (Grammar("json_schema", '{"not": {}}'), '"not"'),
        (Grammar("json_schema", '{"$ref": "#"}'), "no text"),
        (Grammar("json_schema", '{"$ref": "https://example.org/a"}'), "example.org"),
        (Grammar("json_schema", '{"type": "integer", "minimum": 2, "maximum": 1}'), "minimum"),
        (Grammar("json_schema", "{"), "JSON"),
        (Grammar("regex", "("), "unclosed"),
        (Grammar("regex", "(?=a)"), "look"),
        (Grammar("regex", ".*" * 2000), ""),
        (Grammar("lark", "start: nowhere"), "nowhere"),
        (Grammar("lark", "start: x\nx: " + "(" * 20_000 + '"a"' + ")" * 20_000), "nested"),
        (Grammar("lark", 'start: %json {"type": "string", "mistyped": 1}'), "mistyped"),
        (Grammar("lark", "x" * 1_000_000), "1000000"),
        (Grammar("regex", "a" * 70_000), "70000"),
    ],
)
def test_a_grammar_that_cannot_be_is_refused_in_time(
    engine: Engine, grammar: Grammar, word: str
) -> None:
    assert word in fail(engine, grammar).error.message


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar("regex", "(a{1000}){1000}"),
        Grammar("regex", "(a|b)*a(a|b){18}"),
        Grammar("lark", "start: " + "|".join(f'"{number}"' for number in range(8000))),
        Grammar("lark", 'start: e\ne: e e | "a"'),
        Grammar("json_schema", '{"type": "array", "items": {"$ref": "#"}}'),
        Grammar("json_schema", '{"type": "integer", "multipleOf": 99991}'),
    ],
)
def test_a_costly_grammar_is_answered_or_refused_and_harms_nobody(
    engine: Engine, grammar: Grammar
) -> None:
    few = msgspec.structs.replace(HOT, max_tokens=8)

    ends = find_ends(engine, ask(1, grammar, few), ask(2, None))

    assert isinstance(ends[2], Done)
    first = ends[1]
    assert isinstance(first, Done) or first.error.code == "E_GRAMMAR"


def test_others_go_on_while_a_grammar_is_compiled(engine: Engine) -> None:
    engine.submit(ask(1, Grammar("regex", ".*" * 2000)))
    engine.submit(ask(2, None))

    first: list[Output] = []
    while not first:
        first = engine.step()

    assert isinstance(first[0], Token)


def test_a_cancel_while_it_is_compiled_is_a_cancel(engine: Engine) -> None:
    engine.submit(ask(1, use_schema(SCHEMA)))
    engine.cancel(1)

    (failed,) = engine.step()

    assert isinstance(failed, Failed)
    assert failed.error.code == "E_CANCELLED"
    assert not engine.has_work


def test_a_pause_while_it_is_compiled_holds_it_until_it_is_resumed(engine: Engine) -> None:
    whole = answer(engine, ask(1, use_schema(SCHEMA)))
    engine.submit(ask(2, use_schema(SCHEMA)))
    engine.pause(2)
    while engine.has_work:
        assert engine.step() == []

    engine.resume(2)

    end = find_ends(engine)[2]
    assert isinstance(end, Done)
    assert end.text == whole.text


def test_a_resume_before_it_is_compiled_does_not_begin_without_the_grammar(engine: Engine) -> None:
    whole = answer(engine, ask(1, use_schema(SCHEMA)))
    engine.submit(ask(2, use_schema(SCHEMA)))
    engine.pause(2)
    engine.resume(2)

    end = find_ends(engine)[2]

    assert isinstance(end, Done)
    assert end.text == whole.text


def test_special_tokens_are_no_part_of_an_answer_that_fits(engine: Engine) -> None:
    done = answer(engine, ask(1, use_schema({"type": "string", "maxLength": 20})))

    jsonschema.validate(json.loads(done.text), {"type": "string", "maxLength": 20})
    assert not {0, 1} & set(done.tokens)


@pytest.mark.parametrize("choice", ["required", "clock", "add"])
@pytest.mark.parametrize("seed", range(3))
def test_a_call_that_is_required_comes_and_is_valid(engine: Engine, choice: str, seed: int) -> None:
    sampling = msgspec.structs.replace(HOT, seed=seed)
    request = ask(1, None, sampling)
    done = answer(engine, msgspec.structs.replace(request, tools=TOOLS, tool_choice=choice))

    (call,) = done.tool_calls
    assert choice in ("required", call.name)
    schema = {tool.name: tool.parameters for tool in TOOLS}[call.name]
    jsonschema.validate(json.loads(call.arguments), json.loads(schema))
    assert (done.finish_reason, done.text) == ("tool_calls", "")


def test_a_tool_that_is_not_there_cannot_be_chosen(engine: Engine) -> None:
    request = msgspec.structs.replace(ask(1, None), tools=TOOLS, tool_choice="nothing")

    end = find_ends(engine, request)[1]

    assert isinstance(end, Failed)
    assert (end.error.code, end.error.field) == ("E_ARG", "tool_choice")


def test_every_architecture_pads_its_vocabulary_as_it_likes(
    make_copy: Callable[[str], Path],
) -> None:
    folder = make_copy("llama")  # 400 logits; the tokenizer has fewer
    engine = Engine(Load(str(folder)), num_pages=64)
    num_tokens = len(engine._model.tokenizer)

    done = answer(engine, ask(1, use_schema(SCHEMA)))

    assert num_tokens <= 400
    assert max(done.tokens) < num_tokens
    jsonschema.validate(json.loads(done.text), SCHEMA)
