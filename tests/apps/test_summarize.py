"""summarize, on a kernel in memory."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.apps.summarize.main import PROMPT, SYSTEM, main, quote, split_text
from llmos.syscalls.errors import E_ARG
from llmos.syscalls.files import FileText
from llmos.syscalls.generate import Generate
from llmos.syscalls.types import Message

from .conftest import KernelInMemory, generation


def put_file(kernel: KernelInMemory, text: str) -> None:
    kernel.answers["read_file"] = lambda call: FileText(text, False)


@pytest.mark.anyio
async def test_parts_are_summarized_and_printed_in_order(kernel: KernelInMemory) -> None:
    put_file(kernel, "One.\n\nTwo.\n\nThree.")
    kernel.answers["generate"] = lambda call: generation(
        call.messages[-1].content.removeprefix(PROMPT)
    )

    async with kernel.system() as sys:
        await main(sys, "report.txt", max_tokens=9, chunk_chars=6)

    asked = kernel.named(Generate)[0]
    assert asked.messages == (Message("system", SYSTEM), Message("user", PROMPT + "One."))
    assert asked.sampling.max_tokens == 9
    assert kernel.printed == "One.\nTwo.\nThree.\n"


@pytest.mark.anyio
@pytest.mark.parametrize("text", ["", " \n\n \t\n"])
async def test_a_file_without_text_is_an_argument_error(kernel: KernelInMemory, text: str) -> None:
    put_file(kernel, text)

    async with kernel.system() as sys:
        with pytest.raises(E_ARG, match=r"report\.txt has no text"):
            await main(sys, "report.txt")

    assert kernel.named(Generate) == []


@pytest.mark.anyio
async def test_a_part_must_hold_a_character(kernel: KernelInMemory) -> None:
    async with kernel.system() as sys:
        with pytest.raises(E_ARG, match="chunk-chars"):
            await main(sys, "report.txt", chunk_chars=0)


def test_paragraphs_stay_together_while_they_fit() -> None:
    assert split_text("aa\n\nbb\n \ncc", 6) == ["aa\n\nbb", "cc"]


def test_a_long_paragraph_is_cut_between_sentences() -> None:
    assert split_text("One two. Three four! Five?", 20) == ["One two. Three four!", "Five?"]


def test_a_long_sentence_is_cut_anywhere() -> None:
    assert split_text("abcdefgh", 3) == ["abc", "def", "gh"]


@given(st.text(alphabet="ab. \n", max_size=200), st.integers(1, 30))
def test_parts_are_never_empty_nor_too_long_and_lose_no_word(text: str, max_chars: int) -> None:
    chunks = split_text(text, max_chars)

    assert all(0 < len(chunk) <= max_chars for chunk in chunks)
    assert "".join("".join(chunks).split()) == "".join(text.split())


@pytest.mark.parametrize(
    ("summary", "quoted"),
    [
        ("The town was flooded twice.", "The town was flooded twice."),
        ("The town is flooded twice.", "The town was flooded twice."),
        ("A wall comes.", "A wall comes."),
        ("The town is flooded twice. The town was flooded twice!", "The town was flooded twice."),
        ("", ""),
    ],
)
def test_what_was_meant_as_a_quotation_is_one(summary: str, quoted: str) -> None:
    text = "The town was\nflooded twice. Shops are closed until the end of the month."

    assert quote(summary, text) == quoted
