"""A checkpoint: what goes, what stays, when it is refused, and a crash on either side of it."""

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from llmos.kernel.checkpoint import complete_checkpoint
from llmos.kernel.listing import decode_spec
from llmos.kernel.machine import Machine
from llmos.kernel.process import Process
from llmos.kernel.replay import count_tokens
from llmos.memory import processes
from llmos.memory.journal import CHECKPOINT_STRAND, read_output
from llmos.syscalls.client import System
from llmos.syscalls.errors import E_ARG, E_BUSY, E_CANCELLED
from llmos.syscalls.process import MAX_ARGUMENTS, Checkpoint, Checkpointed
from llmos.syscalls.wire import (
    PROTOCOL_VERSION,
    Cancel,
    Deliver,
    Failure,
    FrameStream,
    FromKernel,
    Hello,
    Request,
    decode,
    encode,
)

from .conftest import TOKEN, Attach, begin_replay, make_process, open_gate, read_rows, run_twice

pytestmark = pytest.mark.anyio
_from_kernel = msgspec.msgpack.Decoder(FromKernel)
Main = Callable[[System], Coroutine[Any, Any, None]]


@pytest.fixture
async def process(machine: Machine, tmp_path: Path) -> Process:
    return await make_process(machine, tmp_path)


async def run_to_checkpoint(machine: Machine, process: Process, main: Main) -> Deliver:
    """Run an app's main until its checkpoint is taken, and end its OS process."""
    with anyio.fail_after(20):
        async with open_gate(machine, process) as stream, anyio.create_task_group() as tasks:
            frames = FrameStream(stream)
            await frames.send(Hello(PROTOCOL_VERSION, process.pid, TOKEN))
            system = System(frames)
            await system.receive()
            tasks.start_soon(main, system)
            signal = await system.receive()
            tasks.cancel_scope.cancel()
    assert isinstance(signal, Deliver)
    return signal


async def work(sys: System) -> None:
    """Leave something of every kind behind, then begin anew."""
    await sys.context(system="be brief")
    await sys.generate("three words each")
    await sys.remember("my cat is called Miso")
    await sys.print("so far")
    await sys.checkpoint("2", "more")


async def test_the_journal_is_one_row_that_says_what_came_before(
    machine: Machine, process: Process
) -> None:
    assert await run_to_checkpoint(machine, process, work) == Deliver("CHECKPOINT")
    assert len(await read_rows(machine, process)) == 4

    await complete_checkpoint(machine, process)

    (row,) = await read_rows(machine, process)
    assert (row.strand, row.seq, row.state) == (CHECKPOINT_STRAND, 0, "DONE")
    assert decode(row.result or b"", msgspec.msgpack.Decoder(Checkpointed)).argv == ("2", "more")
    assert (process.num_journal_rows, process.next_argv) == (1, None)


async def test_what_the_process_has_made_and_used_stays(
    machine: Machine, process: Process, attach: Attach
) -> None:
    await run_to_checkpoint(machine, process, work)
    used = process.prompt_tokens, process.completion_tokens

    await complete_checkpoint(machine, process)

    system, _ = await attach(again=process)
    assert await read_output(machine.db, process.pid) == "so far\n"
    assert len(await machine.memory.context_read(process.pid, 1)) == 1
    assert [note.text for note in await system.recall("cat")] == ["my cat is called Miso"]
    assert (process.prompt_tokens, process.completion_tokens) == used
    assert count_tokens(await read_rows(machine, process)) == used
    assert used[1] > 0


async def test_its_record_has_the_new_arguments_and_a_salt_of_its_own(
    machine: Machine, process: Process
) -> None:
    before, seed, key = process.spec, process.seed("0", 0), process.call_key("0", 0)
    await run_to_checkpoint(machine, process, work)

    await complete_checkpoint(machine, process)

    record = await processes.get(machine.db, process.pid)
    assert record is not None
    assert decode_spec(record) == process.spec
    assert process.spec == msgspec.structs.replace(
        before, argv=("2", "more"), salt=process.spec.salt
    )
    assert (process.seed("0", 0), process.call_key("0", 0)) != (seed, key)


async def test_the_chain_goes_on_through_checkpoint_after_checkpoint(
    machine: Machine, process: Process
) -> None:
    for _ in range(3):
        await run_to_checkpoint(machine, process, work)
        await complete_checkpoint(machine, process)
    await run_to_checkpoint(machine, process, work)

    rows = await read_rows(machine, process)

    assert [(row.strand, row.seq) for row in rows[:2]] == [(CHECKPOINT_STRAND, 2), ("0", 0)]
    assert len(rows) == 5


async def test_a_crash_before_leaves_a_process_that_comes_to_its_checkpoint_again(
    machine: Machine, process: Process
) -> None:
    numbers: list[float] = []

    async def main(sys: System) -> None:
        numbers.append(await sys.random())
        await sys.checkpoint("2")

    await run_to_checkpoint(machine, process, main)
    await begin_replay(machine, process)
    assert process.next_argv is None
    await run_to_checkpoint(machine, process, main)

    assert process.next_argv == ("2",)
    assert numbers[0] == numbers[1]
    assert [row.name for row in await read_rows(machine, process)] == ["random"]


async def test_a_crash_after_leaves_a_process_that_has_begun_anew(
    machine: Machine, process: Process, attach: Attach
) -> None:
    await run_to_checkpoint(machine, process, work)
    await complete_checkpoint(machine, process)

    await begin_replay(machine, process)
    system, _ = await attach(again=process)

    assert await system.random() < 1
    names = [row.name for row in await read_rows(machine, process)]
    assert names == ["checkpoint", "random"]
    assert process.completion_tokens > 0


async def test_it_is_refused_while_other_calls_are_under_way_and_again_in_a_replay(
    machine: Machine, process: Process
) -> None:
    async def main(sys: System) -> str:
        branch = sys.start(sys.sleep(1000.0))
        await sys.random()
        with pytest.raises(E_BUSY, match="1 other calls are under way; fix: ") as caught:
            await sys.checkpoint("2")
        branch.cancel()
        assert caught.value.field == "calls"
        return str(caught.value)

    first, second = await run_twice(machine, process, main)

    assert first == second
    assert process.next_argv is None


async def test_a_call_that_was_cancelled_does_not_hinder_it(
    machine: Machine, process: Process
) -> None:
    async def main(sys: System) -> None:
        with anyio.move_on_after(0.01):
            await sys.sleep(1000.0)
        await sys.checkpoint("2")

    await run_to_checkpoint(machine, process, main)

    assert process.next_argv == ("2",)


async def test_once_it_is_taken_calls_are_refused_and_cancels_pass_by(
    machine: Machine, process: Process
) -> None:
    async with open_gate(machine, process) as stream:
        frames = FrameStream(stream)
        await frames.send(Hello(PROTOCOL_VERSION, process.pid, TOKEN))
        await frames.receive()
        call = msgspec.Raw(encode(Checkpoint(("2",))))
        await frames.send(Request("0", 0, "checkpoint", call))
        assert isinstance(decode(await frames.receive(), _from_kernel), Deliver)

        await frames.send(Cancel("0", 0))
        await frames.send(Request("0", 1, "now", msgspec.Raw(b"\x80")))
        refused = decode(await frames.receive(), _from_kernel)

    assert isinstance(refused, Failure)
    assert (refused.error.code, refused.seq) == (E_CANCELLED.code, 1)
    assert await read_rows(machine, process) == []


@pytest.mark.parametrize(
    ("argv", "field"),
    [
        (("x",) * (MAX_ARGUMENTS + 1), "argv"),
        (("ok", "x" * 65_537), "argv[1]"),
        ((5,), "argv[0]"),
        (("\ud800",), None),
        (("x" * 65_536,) * 17, None),
    ],
)
async def test_arguments_out_of_bounds_are_refused_and_the_app_goes_on(
    attach: Attach, machine: Machine, argv: tuple[str, ...], field: str | None
) -> None:
    system, process = await attach()

    with pytest.raises(E_ARG) as caught:
        await system.checkpoint(*argv)

    assert caught.value.field == field
    assert process.next_argv is None
    assert await system.random() < 1
