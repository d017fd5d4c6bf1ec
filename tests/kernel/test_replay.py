"""A replay: which call the journal's row is of, and what an ended or interrupted one means."""

from pathlib import Path

import msgspec
import pytest

from llmos.kernel.capability import Capabilities
from llmos.kernel.journal import digest_call
from llmos.kernel.manifest import Manifest
from llmos.kernel.process import Process, ProcessSpec
from llmos.kernel.replay import check_interrupted, count_tokens, find_recorded, recorded_result
from llmos.memory.journal import JournalRow, JournalState
from llmos.syscalls.errors import E_CANCELLED, E_IN_DOUBT, E_NONDETERMINISM, E_TOOL, SyscallError
from llmos.syscalls.generate import Generate, Generation
from llmos.syscalls.table import TABLE
from llmos.syscalls.types import Usage
from llmos.syscalls.values import Now, Sleep
from llmos.syscalls.wire import encode


def recorded(
    name: str = "sleep",
    call: msgspec.Struct = Sleep(1.0),  # noqa: B008  # frozen
    state: JournalState = "INTENT",
    *,
    result: bytes | None = None,
    error: SyscallError | None = None,
    effect: str | None = None,
) -> JournalRow:
    return JournalRow(
        pid=1,
        strand="0",
        seq=0,
        name=name,
        effect=effect or TABLE[name].effect,
        digest=digest_call(call),
        state=state,
        result=result,
        error=None if error is None else encode(error.reply()),
        label="",
        code_hash="1",
        started_at=1.0,
        ended_at=None,
    )


def process_with(*rows: JournalRow) -> Process:
    manifest = Manifest("test", "1", "main:main", "", Path("/"), False, Capabilities())
    spec = ProcessSpec("test", (), "/", (), "echo", "salt", Capabilities())
    process = Process(1, None, manifest, spec, 0.0)
    process.journaled = {(row.strand, row.seq): row for row in rows}
    return process


def find(process: Process, name: str, call: msgspec.Struct, seq: int = 0) -> JournalRow | None:
    return find_recorded(process, "0", seq, TABLE[name], digest_call(call))


def test_a_call_past_the_journals_end_is_new() -> None:
    process = process_with(recorded())

    assert find(process, "sleep", Sleep(1.0), seq=1) is None
    assert find(process_with(), "sleep", Sleep(1.0)) is None


def test_the_same_call_finds_its_row() -> None:
    row = recorded()

    assert find(process_with(row), "sleep", Sleep(1.0)) is row


def test_other_arguments_are_named() -> None:
    with pytest.raises(E_NONDETERMINISM, match=r"0:0 was 'sleep' .* other arguments"):
        find(process_with(recorded()), "sleep", Sleep(2.0))


def test_another_call_is_named() -> None:
    with pytest.raises(E_NONDETERMINISM, match=r"was 'sleep' .* came with 'now'"):
        find(process_with(recorded()), "now", Now())


def test_a_finished_call_has_its_result_again() -> None:
    assert recorded_result(recorded(state="DONE", result=b"\x80")) == b"\x80"


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ("FAILED", E_TOOL("broken", field="name")),
        ("CANCELLED", E_CANCELLED("enough", partial="so far")),
        ("IN_DOUBT", E_IN_DOUBT("who knows")),
    ],
)
def test_a_call_that_failed_fails_again_in_the_same_way(
    state: JournalState, error: SyscallError
) -> None:
    with pytest.raises(type(error)) as caught:
        recorded_result(recorded(state=state, error=error))

    assert caught.value.reply() == error.reply()


def test_an_interrupted_call_has_no_result() -> None:
    assert recorded_result(recorded()) is None


@pytest.mark.parametrize("effect", ["pure", "read", "value", "transactional", "idempotent", "wait"])
def test_an_interrupted_call_that_may_run_again_does(effect: str) -> None:
    check_interrupted(None)
    check_interrupted(recorded(effect=effect))


def test_an_interrupted_once_call_is_in_doubt() -> None:
    with pytest.raises(E_IN_DOUBT, match=r"0:0 was interrupted"):
        check_interrupted(recorded("tool", effect="once"))


def test_tokens_are_those_of_finished_generations() -> None:
    done = encode(Generation("hi", (), "stop", Usage(10, 4, 3), "echo", 1))
    rows = [
        recorded("generate", Generate(), "DONE", result=done),
        recorded("generate", Generate(), "DONE", result=done),
        recorded("generate", Generate(), "FAILED", error=E_TOOL("x")),
        recorded("generate", Generate()),
        recorded(state="DONE", result=b"\x80"),
    ]

    assert count_tokens(rows) == (20, 6)
    assert count_tokens([]) == (0, 0)
