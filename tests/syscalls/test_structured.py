"""Answers that are values: what is asked for goes out as a grammar and comes back as an object."""

import json
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from llmos.syscalls.client import System
from llmos.syscalls.errors import E_ARG, E_LIMIT, E_MODEL
from llmos.syscalls.generate import Choice, Embed, Embeddings, Generate, Generation
from llmos.syscalls.structured import Structured, read_objects, write_grammar
from llmos.syscalls.tasks import running
from llmos.syscalls.types import FinishReason, Grammar, Usage

from .conftest import ScriptedKernel


class Inner(msgspec.Struct):
    """A part."""

    size: Annotated[int, Meta(ge=0, le=9)]


class Pick(msgspec.Struct):
    """What is to be answered."""

    index: int
    kind: Literal["a", "b"]
    parts: list[Inner] = []


def generation(
    text: str, reason: FinishReason = "stop", others: tuple[str, ...] = ()
) -> Generation:
    choices = tuple(Choice(other, (), "stop", 2) for other in others)
    return Generation(text, (), reason, Usage(1, 0, 1), "m", 1, (), choices)


def test_a_type_becomes_a_schema_whose_objects_are_closed() -> None:
    grammar = write_grammar(Pick, None, None)

    assert grammar is not None
    definitions = json.loads(grammar.text)["$defs"]
    assert grammar.kind == "json_schema"
    assert definitions["Pick"]["additionalProperties"] is False
    assert definitions["Inner"]["additionalProperties"] is False


def test_a_dict_goes_out_as_it_is() -> None:
    assert write_grammar({"type": "null"}, None, None) == Grammar("json_schema", '{"type": "null"}')


def test_a_regex_and_a_grammar_keep_their_kinds() -> None:
    assert write_grammar(None, "a+", None) == Grammar("regex", "a+")
    assert write_grammar(None, None, 'start: "a"') == Grammar("lark", 'start: "a"')
    assert write_grammar(None, None, None) is None


@pytest.mark.parametrize("given", [(Pick, "a", None), (None, "a", "b"), ({}, None, "b")])
def test_two_at_once_are_refused(given: tuple[Any, Any, Any]) -> None:
    with pytest.raises(E_ARG, match="fits one"):
        write_grammar(*given)


def test_what_is_no_type_is_refused() -> None:
    with pytest.raises(E_ARG) as caught:
        write_grammar(object, None, None)

    assert caught.value.field == "schema"


def test_an_answer_is_decoded_as_its_type() -> None:
    answer = read_objects(generation('{"index": 3, "kind": "a", "parts": [{"size": 1}]}'), Pick)

    assert answer.value == Pick(3, "a", [Inner(1)])
    assert answer.text.startswith("{")


def test_every_branch_is_decoded() -> None:
    assert read_objects(generation("1", others=("2", "3")), {"type": "integer"}).values == (1, 2, 3)


def test_an_answer_that_was_cut_off_is_a_limit_with_its_text() -> None:
    with pytest.raises(E_LIMIT) as caught:
        read_objects(generation('{"ind', "length"), Pick)

    assert caught.value.partial == '{"ind'


@pytest.mark.parametrize(
    "text", ["", "{", '{"index": "x", "kind": "a"}', '{"index": 1}', "[" * 9999]
)
def test_an_answer_that_does_not_fit_is_the_models_fault(text: str) -> None:
    with pytest.raises(E_MODEL) as caught:
        read_objects(generation(text), Pick)

    assert caught.value.partial == text


@pytest.mark.anyio
async def test_generate_sends_the_grammar_and_gives_the_object(
    system: System, kernel: ScriptedKernel
) -> None:
    sent: list[Generate] = []

    def answer(call: Generate) -> Generation:
        sent.append(call)
        return generation('{"index": 1, "kind": "b"}')

    async with running() as tasks:
        tasks.start_soon(kernel.serve, answer)
        result = await system.generate("pick", schema=Pick, n=2, tool_choice="auto", seed=4)

    assert isinstance(result, Structured)
    assert result.value.kind == "b"
    (call,) = sent
    assert call.grammar == write_grammar(Pick, None, None)
    assert (call.n, call.sampling.seed) == (2, 4)


@pytest.mark.anyio
async def test_embeddings_of_many_texts_are_asked_for_in_parts(
    system: System, kernel: ScriptedKernel
) -> None:
    def answer(call: Embed) -> Embeddings:
        return Embeddings(
            (b"\x00\x00\x80?\x00\x00\x00\x00",) * len(call.texts), Usage(1, 0, 0), "m"
        )

    async with running() as tasks:
        tasks.start_soon(kernel.serve, answer)
        vectors = await system.embed(["x"] * 20)

    assert vectors == ((1.0, 0.0),) * 20
    assert [name for _, _, name in kernel.calls] == ["embed", "embed"]


@pytest.mark.anyio
async def test_one_text_where_several_belong_is_refused_before_it_is_sent(
    system: System, kernel: ScriptedKernel
) -> None:
    with pytest.raises(E_ARG, match="continuations is one text; fix: put it into a list"):
        await system.score("Is it?", "yes")
    with pytest.raises(E_ARG, match="texts is one text; fix: put it into a list"):
        await system.embed("a text")

    assert not kernel.calls
