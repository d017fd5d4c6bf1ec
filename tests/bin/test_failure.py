"""How failures look."""

import errno
import os

import click
import pytest

from llmos.bin.failure import run_guarded
from llmos.syscalls import errors
from llmos.syscalls.errors import E_ARG, E_PERM, E_STORAGE, SyscallError


def fail(failure: BaseException) -> int:
    def program() -> int:
        raise failure

    return run_guarded(program)


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        *[("E_APP", 1), ("E_TOOL", 1), ("E_ARG", 2), ("E_GRAMMAR", 2), ("E_STORAGE", 3)],
        *[("E_KERNEL", 3), ("E_FRAME", 3), ("E_MODEL", 4), ("E_LIMIT", 5), ("E_CONTEXT", 5)],
        *[("E_PERM", 6), ("E_CANCELLED", 7)],
    ],
)
def test_every_error_has_its_exit_code(code: str, exit_code: int) -> None:
    assert fail(errors.ERRORS[code]("no")) == exit_code


def test_an_error_is_two_lines(capsys: pytest.CaptureFixture[str]) -> None:
    fail(E_STORAGE("the disk is full; fix: free\nsome space"))

    assert capsys.readouterr().err == "llmos: the disk is full\nfix: free some space\n"


def test_the_field_is_named_unless_the_message_does(capsys: pytest.CaptureFixture[str]) -> None:
    fail(E_ARG("Expected `int` >= 1", field="limit"))
    fail(E_ARG("LIMIT: no; fix: more", field="LIMIT"))

    assert (
        capsys.readouterr().err
        == "llmos: Expected `int` >= 1 (limit)\nllmos: LIMIT: no\nfix: more\n"
    )


@pytest.mark.parametrize("error", [E_PERM("no"), KeyboardInterrupt()])
def test_groups_fail_as_what_is_in_them(error: BaseException) -> None:
    group = BaseExceptionGroup("", [BaseExceptionGroup("", [error])])

    assert fail(group) == fail(error)


def test_ctrl_c_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert fail(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "llmos: interrupted\n"


def test_usage_is_2_and_points_to_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert fail(click.UsageError("no such option.")) == 2
    assert capsys.readouterr().err == "llmos: no such option\nfix: llmos --help\n"


def test_what_the_system_says_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert fail(OSError(errno.EACCES, os.strerror(errno.EACCES), "/etc/x")) == 3
    assert capsys.readouterr().err == "llmos: Permission denied: /etc/x\n"


def test_what_nobody_foresaw_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        fail(ZeroDivisionError())


def test_all_error_classes_are_known() -> None:
    assert all(issubclass(kind, SyscallError) for kind in errors.ERRORS.values())
