"""Words of a command line become an app's arguments, or an error with the usage."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.syscalls.argv import bind_argv
from llmos.syscalls.errors import E_ARG


async def brief(sys: object, topic: str, drafts: int = 3, *, loud: bool = False) -> None: ...


async def join(sys: object, *words: str, sep: str = " ") -> None: ...


async def need(sys: object, *, ratio: float) -> None: ...


@pytest.mark.parametrize(
    ("argv", "arguments"),
    [
        (["cats"], {"topic": "cats"}),
        (["cats", "5"], {"topic": "cats", "drafts": 5}),
        (["--drafts", "5", "cats"], {"topic": "cats", "drafts": 5}),
        (["--drafts=5", "cats", "--loud"], {"topic": "cats", "drafts": 5, "loud": True}),
        (["--loud=false", "cats"], {"topic": "cats", "loud": False}),
        (["--", "--loud"], {"topic": "--loud"}),
    ],
)
def test_words_fill_parameters(argv: list[str], arguments: dict[str, object]) -> None:
    assert bind_argv(brief, argv).arguments == arguments


@pytest.mark.parametrize(
    ("argv", "field"),
    [
        ([], "argv"),
        (["a", "1", "2"], "argv"),
        (["a", "many"], "drafts"),
        (["a", "--drafts"], "drafts"),
        (["a", "--nope"], "nope"),
        (["a", "--loud=perhaps"], "loud"),
    ],
)
def test_wrong_words_name_the_parameter_and_the_usage(argv: list[str], field: str) -> None:
    with pytest.raises(E_ARG, match=r"usage: TOPIC \[DRAFTS\] \[--loud\]") as caught:
        bind_argv(brief, argv)

    assert caught.value.field == field


def test_a_required_option_is_asked_for() -> None:
    with pytest.raises(E_ARG, match="usage: --ratio RATIO"):
        bind_argv(need, [])


@given(st.lists(st.text().filter(lambda word: not word.startswith("--"))))
def test_all_other_words_are_taken_as_they_are(words: list[str]) -> None:
    assert bind_argv(join, words).args == tuple(words)
