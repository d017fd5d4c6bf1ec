"""ask, on a kernel in memory."""

import pytest

from llmos.apps.ask.main import SYSTEM, TOOLS, main
from llmos.syscalls.errors import E_ARG
from llmos.syscalls.generate import Generate
from llmos.syscalls.ipc import Ask
from llmos.syscalls.memory import ContextCreate
from llmos.syscalls.types import Message

from .conftest import KernelInMemory

pytestmark = pytest.mark.anyio


async def test_the_words_are_one_question_shown_with_all_tools(kernel: KernelInMemory) -> None:
    async with kernel.system() as sys:
        await main(sys, "what", "is", "17 * 23?")

    (created,) = kernel.named(ContextCreate)
    (asked,) = kernel.named(Generate)
    assert created.messages == (Message("system", SYSTEM),)
    assert asked.messages == (Message("user", "what is 17 * 23?"),)
    assert (asked.tools, asked.show) == (TOOLS, True)
    assert kernel.printed == "\n"


async def test_without_words_it_asks_for_the_question(kernel: KernelInMemory) -> None:
    kernel.lines = [" hello "]

    async with kernel.system() as sys:
        await main(sys)

    assert kernel.named(Ask) == [Ask("question> ")]
    assert kernel.named(Generate)[0].messages[0].content == "hello"


@pytest.mark.parametrize("line", [None, "", "  "])
async def test_no_question_is_an_argument_error(kernel: KernelInMemory, line: str | None) -> None:
    kernel.lines = [line]

    async with kernel.system() as sys:
        with pytest.raises(E_ARG, match="no question"):
            await main(sys)

    assert kernel.named(Generate) == []
