"""A replay: which call the journal's row is of, and what an ended or interrupted one means."""

from pathlib import Path

import msgspec
import pytest

from llmos.kernel.journal import digest_call
from llmos.kernel.machine import Machine
from llmos.kernel.replay import (
    cancelled_error,
    count_tokens,
    find_recorded,
    recorded_result,
    require_same,
    was_abandoned,
)
from llmos.memory.journal import JournalRow, JournalState, insert_row
from llmos.syscalls.errors import E_CANCELLED, E_IN_DOUBT, E_NONDETERMINISM, E_TOOL, SyscallError
from llmos.syscalls.generate import Generate, Generation
from llmos.syscalls.process import Checkpoint, Checkpointed
from llmos.syscalls.table import TABLE
from llmos.syscalls.types import Usage
from llmos.syscalls.values import Now, Sleep
from llmos.syscalls.wire import Request, encode

from .conftest import make_process

pytestmark = pytest.mark.anyio


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


def require(row: JournalRow, name: str, call: msgspec.Struct, code_hash: str = "1") -> None:
    require_same(row, name, digest_call(call), code_hash)


async def test_a_row_that_a_process_came_back_with_is_found_once(
    machine: Machine, tmp_path: Path
) -> None:
    process = await make_process(machine, tmp_path)
    row, request = recorded(), Request("0", 0, "sleep", msgspec.Raw())
    process.journaled = {("0", 0): row}

    assert await find_recorded(machine, process, request, again=False) is row
    assert process.journaled == {}


async def test_a_number_that_came_before_is_looked_for_in_the_store(
    machine: Machine, tmp_path: Path
) -> None:
    process = await make_process(machine, tmp_path)
    row = msgspec.structs.replace(recorded(), pid=process.pid)
    machine.db.write_nowait(lambda connection: insert_row(connection, row))
    requests = [Request("0", seq, "sleep", msgspec.Raw()) for seq in (0, 1)]

    found = [await find_recorded(machine, process, each, again=True) for each in requests]

    assert found == [row, None]


def test_the_same_call_is_the_rows() -> None:
    require(recorded(), "sleep", Sleep(1.0))


def test_other_arguments_are_named() -> None:
    with pytest.raises(E_NONDETERMINISM, match=r"0:0 was 'sleep' .* other arguments"):
        require(recorded(), "sleep", Sleep(2.0))


def test_another_call_is_named() -> None:
    with pytest.raises(E_NONDETERMINISM, match=r"was 'sleep' .* came with 'now'"):
        require(recorded(), "now", Now())


def test_a_step_of_the_same_code_is_told_where_chance_comes_from() -> None:
    with pytest.raises(E_NONDETERMINISM, match=r"'now'; fix: take what may differ .* sys\.now"):
        require(recorded(), "now", Now())


def test_other_arguments_are_told_apart_by_their_digests() -> None:
    given, kept = (digest_call(Sleep(seconds)).hex()[:8] for seconds in (2.0, 1.0))

    with pytest.raises(E_NONDETERMINISM, match=f"digest {given}, in the journal {kept}"):
        require(recorded(), "sleep", Sleep(2.0))


@pytest.mark.parametrize(("name", "call"), [("now", Now()), ("sleep", Sleep(2.0))])
def test_a_change_of_the_apps_code_is_named(name: str, call: msgspec.Struct) -> None:
    with pytest.raises(E_NONDETERMINISM) as caught:
        require(recorded(), name, call, code_hash="2")

    what = "the app's code has changed since that step; fix: keep the old way"
    assert what in caught.value.message
    assert caught.value.reply().message == caught.value.message  # it is not cut


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


def test_tokens_from_before_a_checkpoint_count() -> None:
    first = encode(Checkpointed(("2",), Usage(100, 0, 30)))
    done = encode(Generation("hi", (), "stop", Usage(10, 4, 3), "echo", 1))
    rows = [
        recorded("checkpoint", Checkpoint(("2",)), "DONE", result=first),
        recorded("generate", Generate(), "DONE", result=done),
        recorded("checkpoint", Checkpoint(("3",)), "FAILED", error=E_TOOL("x")),
    ]

    assert count_tokens(rows) == (110, 33)


@pytest.mark.parametrize("is_abandoned", [True, False])
def test_a_call_that_the_app_gave_up_is_told_from_one_that_had_to_end(is_abandoned: bool) -> None:
    error = cancelled_error(is_abandoned, "so far")

    assert was_abandoned(recorded(state="CANCELLED", error=error)) is is_abandoned
    assert error.partial == "so far"


def test_no_other_ending_is_a_call_that_was_given_up() -> None:
    error = E_TOOL("x", field="app")

    assert not was_abandoned(recorded())
    assert not was_abandoned(recorded(state="FAILED", error=error))
    assert not was_abandoned(recorded(state="DONE", result=b"\x80"))
