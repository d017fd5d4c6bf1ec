"""Errors travel: what was raised on one side is raised on the other."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.syscalls import errors
from llmos.syscalls.errors import (
    E_BUSY,
    ERRORS,
    MAX_MESSAGE_CHARS,
    ErrorReply,
    SyscallError,
    raise_reply,
)


@pytest.mark.parametrize("kind", ERRORS.values())
def test_an_error_comes_out_as_it_went_in(kind: type[SyscallError]) -> None:
    reply = kind("why", field="place", retry_after_seconds=1.5, partial="so far").reply()

    with pytest.raises(kind) as caught:
        raise_reply(reply)

    assert caught.value.reply() == reply


def test_every_code_stands_in_the_tree_of_the_module_docstring() -> None:
    assert errors.__doc__ is not None
    assert all(code in errors.__doc__ for code in ERRORS)


@given(st.text(max_size=2000))
def test_a_message_is_never_longer_than_its_bound(message: str) -> None:
    assert len(E_BUSY(message).reply().message) <= MAX_MESSAGE_CHARS


def test_a_code_of_a_newer_kernel_is_still_an_error() -> None:
    with pytest.raises(SyscallError, match="new"):
        raise_reply(ErrorReply("E_FUTURE", "new"))
