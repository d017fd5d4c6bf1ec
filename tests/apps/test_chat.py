"""chat, on a kernel in memory."""

import pytest

from llmos.apps.chat.main import add_notes, choose_notes, is_question, main
from llmos.syscalls.errors import E_CONTEXT
from llmos.syscalls.generate import Generate, Generation
from llmos.syscalls.memory import (
    ContextAppend,
    ContextCreate,
    ContextMessages,
    Note,
    Recall,
    Recalled,
    Remember,
    Remembered,
)
from llmos.syscalls.types import Message

from .conftest import KernelInMemory, generation

pytestmark = pytest.mark.anyio


def note(text: str, *, kind: str = "turn", role: str = "user") -> Note:
    return Note("uid", text, 1.0, kind, "chat", role, 0.0)


@pytest.fixture
def kernel() -> KernelInMemory:
    kernel = KernelInMemory()
    kernel.answers["recall"] = lambda call: Recalled(())
    kernel.answers["remember"] = lambda call: Remembered("uid")
    return kernel


async def test_a_message_is_one_turn_and_is_remembered(kernel: KernelInMemory) -> None:
    async with kernel.system() as sys:
        await main(sys, "my", "cat", "is", "called", "Miso")

    assert kernel.named(Recall) == [Recall("my cat is called Miso", 8)]
    assert kernel.named(Remember) == [Remember("my cat is called Miso", "turn", "user")]
    assert kernel.named(Generate)[0].show


async def test_notes_stand_before_the_words_but_are_not_stored(kernel: KernelInMemory) -> None:
    kernel.answers["recall"] = lambda call: Recalled((note("my cat is called Miso"),))

    async with kernel.system() as sys:
        await main(sys, "what is my cat called?")

    prompt = "Notes from memory:\n- my cat is called Miso\n\nwhat is my cat called?"
    assert kernel.named(Generate)[0].messages == (Message("user", prompt),)
    assert kernel.named(ContextAppend)[0].messages[0] == Message("user", "what is my cat called?")
    assert kernel.named(Remember) == []


async def test_a_session_goes_on_to_the_end_of_input_in_one_context(kernel: KernelInMemory) -> None:
    kernel.lines = ["hello", "  ", "good day"]

    async with kernel.system() as sys:
        await main(sys)

    assert len(kernel.named(ContextCreate)) == 1
    assert [call.query for call in kernel.named(Recall)] == ["hello", "good day"]


async def test_a_conversation_past_the_window_starts_anew(kernel: KernelInMemory) -> None:
    def answer(call: Generate) -> Generation:
        if len(kernel.named(ContextCreate)) == 1:
            raise E_CONTEXT("the prompt has 9 tokens, the window holds 8")
        return generation("hi")

    kernel.answers["generate"] = answer
    kernel.answers["context_read"] = lambda call: ContextMessages((Message("user", "a"),) * 3)

    async with kernel.system() as sys:
        await main(sys, "hello")

    assert len(kernel.named(ContextCreate)) == 2
    assert "starts anew" in kernel.printed


async def test_one_message_past_the_window_is_an_error(kernel: KernelInMemory) -> None:
    def answer(call: Generate) -> Generation:
        raise E_CONTEXT("the prompt has 9 tokens, the window holds 8")

    kernel.answers["generate"] = answer
    kernel.answers["context_read"] = lambda call: ContextMessages((Message("system", "s"),))

    async with kernel.system() as sys:
        with pytest.raises(E_CONTEXT):
            await main(sys, "hello")


def test_only_what_the_person_said_before_is_a_note() -> None:
    found = [
        note("a"),
        note("b", kind="fact"),
        note("c", role="assistant"),
        note("now"),
        note("a"),
        note("d"),
    ]

    assert choose_notes(found, "now") == ["a", "d"]


def test_without_notes_the_prompt_is_the_text() -> None:
    assert add_notes("hello", []) == "hello"
    assert add_notes("hello", ["a", "b"]) == "Notes from memory:\n- a\n- b\n\nhello"


@pytest.mark.parametrize(
    "text", ["What is it", "is it red", "my cat, what is she called?", "Who's that", "Really? "]
)
def test_questions_are_told_by_their_end_or_their_first_word(text: str) -> None:
    assert is_question(text)


@pytest.mark.parametrize("text", ["my cat is called Miso", "Whatever you say", "", "I like it!"])
def test_the_rest_is_no_question(text: str) -> None:
    assert not is_question(text)
