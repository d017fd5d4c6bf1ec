"""The SDK: how calls are numbered, answered, cancelled and streamed, against a scripted kernel."""

import msgspec
import pytest
from anyio import EndOfStream, Event, create_task_group, fail_after, wait_all_tasks_blocked
from anyio.lowlevel import checkpoint

from llmos.syscalls.calls import MAX_CALLS_AT_ONCE
from llmos.syscalls.client import System, app
from llmos.syscalls.errors import E_ARG, E_BUSY, E_KERNEL, E_TOOL
from llmos.syscalls.files import FileText, ReadFile
from llmos.syscalls.generate import Generate, Generation
from llmos.syscalls.process import PidReply
from llmos.syscalls.tasks import running
from llmos.syscalls.tool import Tool, ToolResult
from llmos.syscalls.types import Message, Usage
from llmos.syscalls.values import RandomNumber
from llmos.syscalls.wire import (
    MAX_FRAME_BYTES,
    Cancel,
    Deliver,
    FrameStream,
    Goodbye,
    Joined,
    Reply,
    Welcome,
)

from .conftest import Pipe, ScriptedKernel

pytestmark = pytest.mark.anyio


def say_pid(call: object) -> PidReply:
    return PidReply(7)


def generation(text: str) -> Generation:
    return Generation(text, (), "stop", Usage(1, 0, 1), "echo", 1)


async def test_calls_count_up_within_their_strand(system: System, kernel: ScriptedKernel) -> None:
    async with running() as tasks:
        tasks.start_soon(kernel.serve, say_pid)
        await system.getpid()
        await system.getpid()

    assert kernel.calls == [("0", 0, "getpid"), ("0", 1, "getpid")]


async def test_every_branch_of_a_gather_counts_from_0_in_a_strand_of_its_own(
    system: System, kernel: ScriptedKernel
) -> None:
    async with running() as tasks:
        tasks.start_soon(kernel.serve, say_pid)
        await system.gather(system.getpid(), system.getpid())
        await system.getpid()
        await system.gather(system.getpid())

    assert {call[:2] for call in kernel.calls[:2]} == {("0.1", 0), ("0.2", 0)}
    assert [call[:2] for call in kernel.calls[2:]] == [("0", 0), ("0.3", 0)]


async def test_a_gather_in_a_branch_makes_grandchildren(
    system: System, kernel: ScriptedKernel
) -> None:
    async def branch() -> int:
        await system.gather(system.getpid(), system.getpid())
        return await system.getpid()

    async with running() as tasks:
        tasks.start_soon(kernel.serve, say_pid)
        assert await system.gather(branch(), branch()) == [7, 7]

    strands = {"0.1.1", "0.1.2", "0.2.1", "0.2.2", "0.1", "0.2"}
    assert {strand for strand, _, _ in kernel.calls} == strands


async def test_gathered_results_come_in_argument_order_whoever_is_first(
    system: System, kernel: ScriptedKernel
) -> None:
    async def answer_backwards() -> None:
        requests = [await kernel.receive_call() for _ in range(3)]
        for request in reversed(requests):
            await kernel.reply(request, RandomNumber(int(request.strand[-1]) / 10))

    async with create_task_group() as tasks:
        tasks.start_soon(answer_backwards)
        numbers = await system.gather(system.random(), system.random(), system.random())

    assert numbers == [0.1, 0.2, 0.3]


async def test_no_more_calls_are_under_way_than_the_kernel_takes(
    system: System, kernel: ScriptedKernel
) -> None:
    async def answer_late() -> None:
        requests = [await kernel.receive_call() for _ in range(MAX_CALLS_AT_ONCE)]
        await wait_all_tasks_blocked()
        with pytest.raises(TimeoutError), fail_after(0):
            await kernel.frames.receive()
        for request in requests:
            await kernel.reply(request, PidReply(7))
        await kernel.reply(await kernel.receive_call(), PidReply(8))

    branches = [system.getpid() for _ in range(MAX_CALLS_AT_ONCE + 1)]
    async with create_task_group() as tasks:
        tasks.start_soon(answer_late)
        pids = await system.gather(*branches)

    assert sorted(pids) == [7] * MAX_CALLS_AT_ONCE + [8]


async def test_a_gather_of_nothing_is_nothing(system: System) -> None:
    assert await system.gather() == []


async def test_an_error_in_a_branch_ends_the_others_and_comes_out_by_its_type(
    system: System, kernel: ScriptedKernel
) -> None:
    cancelled: list[Cancel] = []

    async def script() -> None:
        first, second = await kernel.receive_call(), await kernel.receive_call()
        await kernel.fail(first, E_TOOL("broken"))
        frame = await kernel.receive()
        assert isinstance(frame, Cancel)
        cancelled.append(frame)
        assert (frame.strand, frame.seq) == (second.strand, second.seq)

    async with create_task_group() as tasks:
        tasks.start_soon(script)
        with pytest.raises(E_TOOL, match="broken"):
            await system.gather(system.tool("a"), system.tool("b"))

    assert len(cancelled) == 1


async def test_an_error_reply_is_raised_with_all_that_it_says(
    system: System, kernel: ScriptedKernel
) -> None:
    def refuse(call: object) -> msgspec.Struct:
        raise E_BUSY("too many files", field="path", retry_after_seconds=0.5, partial="so far")

    async with running() as tasks:
        tasks.start_soon(kernel.serve, refuse)
        with pytest.raises(E_BUSY, match="too many files") as caught:
            await system.getpid()

    error = caught.value
    assert (error.field, error.retry_after_seconds, error.partial) == ("path", 0.5, "so far")


async def test_a_call_for_which_there_is_no_room_is_sent_again_under_its_number(
    system: System, kernel: ScriptedKernel
) -> None:
    async def script() -> None:
        for _ in range(2):
            busy = E_BUSY("full", field="seq", retry_after_seconds=0.001)
            await kernel.fail(await kernel.receive_call(), busy)
        await kernel.serve(say_pid)

    async with running() as tasks:
        tasks.start_soon(script)
        assert [await system.getpid(), await system.getpid()] == [7, 7]

    assert [seq for _, seq, _ in kernel.calls] == [0, 0, 0, 1]


async def test_a_call_that_is_cancelled_while_it_waits_for_room_is_not_sent_again(
    system: System, kernel: ScriptedKernel
) -> None:
    async with create_task_group() as tasks:
        tasks.start_soon(system.sleep, 1000.0)
        busy = E_BUSY("full", field="seq", retry_after_seconds=1000.0)
        await kernel.fail(await kernel.receive_call(), busy)
        await wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()

    async with running() as tasks:
        tasks.start_soon(kernel.serve, say_pid)
        await system.getpid()
    assert [seq for _, seq, _ in kernel.calls] == [0, 1]


async def test_a_gather_tells_which_strands_before_it_have_ended(
    system: System, kernel: ScriptedKernel
) -> None:
    async with running() as tasks:
        tasks.start_soon(kernel.serve, say_pid)
        for _ in range(3):
            await system.gather(system.getpid(), system.getpid())
        await system.getpid()

    assert kernel.joined == [Joined("0", 2), Joined("0", 4)]


async def test_a_strand_that_a_task_still_calls_in_has_not_ended(
    system: System, kernel: ScriptedKernel
) -> None:
    release = Event()

    async def call_later() -> None:
        await release.wait()
        await system.getpid()

    async with running() as serving, create_task_group() as tasks:
        serving.start_soon(kernel.serve, say_pid)

        async def leave_a_task_behind() -> None:
            tasks.start_soon(call_later)

        await system.gather(system.getpid())
        await system.gather(leave_a_task_behind())
        await system.gather(system.getpid())
        release.set()

    assert kernel.joined == [Joined("0", 1)]
    assert kernel.calls[-1] == ("0.2", 0, "getpid")


async def test_a_call_that_is_cancelled_says_so_to_the_kernel(
    system: System, kernel: ScriptedKernel
) -> None:
    async with create_task_group() as tasks:
        tasks.start_soon(system.sleep, 1000.0)
        request = await kernel.receive_call()
        tasks.cancel_scope.cancel()

    frame = await kernel.receive()
    assert frame == Cancel(request.strand, request.seq)


async def test_a_reply_that_comes_too_late_is_dropped(
    system: System, kernel: ScriptedKernel
) -> None:
    async with create_task_group() as tasks:
        tasks.start_soon(system.sleep, 1000.0)
        late = await kernel.receive_call()
        tasks.cancel_scope.cancel()
    await kernel.receive()
    await kernel.chunk(late, "too")
    await kernel.reply(late, PidReply(1))

    async with running() as tasks:
        tasks.start_soon(kernel.serve, say_pid)
        assert await system.getpid() == 7


async def test_a_call_too_large_for_a_frame_takes_no_number(
    system: System, kernel: ScriptedKernel
) -> None:
    with pytest.raises(E_ARG, match="a frame holds"):
        await system.print("é" * (MAX_FRAME_BYTES // 2))

    async with running() as tasks:
        tasks.start_soon(kernel.serve, say_pid)
        await system.getpid()
    assert kernel.calls == [("0", 0, "getpid")]


async def test_text_that_cannot_be_sent_takes_no_number(
    system: System, kernel: ScriptedKernel
) -> None:
    with pytest.raises(E_ARG, match="cannot be sent"):
        await system.print("\ud800")

    async with running() as tasks:
        tasks.start_soon(kernel.serve, say_pid)
        await system.getpid()
    assert kernel.calls == [("0", 0, "getpid")]


async def test_chunks_reach_on_text_in_order_before_the_reply(
    system: System, kernel: ScriptedKernel
) -> None:
    async def script() -> None:
        request = await kernel.receive_call()
        for word in ("one ", "two ", "three"):
            await kernel.chunk(request, word)
        await kernel.reply(request, generation("one two three"))

    parts: list[str] = []
    async with create_task_group() as tasks:
        tasks.start_soon(script)
        answer = await system.generate("count", on_text=parts.append)

    assert parts == ["one ", "two ", "three"]
    assert answer.text == "one two three"


async def test_chunks_of_two_calls_at_once_do_not_mix(
    system: System, kernel: ScriptedKernel
) -> None:
    async def script() -> None:
        requests = [await kernel.receive_call() for _ in range(2)]
        for _ in range(3):
            for request in requests:
                await kernel.chunk(request, request.strand[-1])
        for request in requests:
            await kernel.reply(request, generation(request.strand[-1] * 3))

    first, second = list[str](), list[str]()
    async with create_task_group() as tasks:
        tasks.start_soon(script)
        await system.gather(
            system.generate("a", on_text=first.append), system.generate("b", on_text=second.append)
        )

    assert ("".join(first), "".join(second)) == ("111", "222")


async def test_a_prompt_becomes_messages_and_keywords_become_sampling(
    system: System, kernel: ScriptedKernel
) -> None:
    asked: list[Generate] = []

    def script(call: Generate) -> Generation:
        asked.append(call)
        return generation("ok")

    async with running() as tasks:
        tasks.start_soon(kernel.serve, script)
        await system.generate("hi", system="be brief", stop=["\n"], temperature=0.0)
        await system.generate([Message("user", "again")], on_text=print)

    assert asked[0].messages == (Message("system", "be brief"), Message("user", "hi"))
    assert (asked[0].sampling.stop, asked[0].sampling.temperature) == (("\n",), 0.0)
    assert (asked[0].stream, asked[1].stream) == (False, True)


async def test_a_tools_keywords_travel_as_a_json_object(
    system: System, kernel: ScriptedKernel
) -> None:
    def script(call: Tool) -> ToolResult:
        return ToolResult(f"{call.name} {call.arguments}")

    async with running() as tasks:
        tasks.start_soon(kernel.serve, script)
        text = await system.tool("calculator", expression="1 + 1")

    assert text == 'calculator {"expression": "1 + 1"}'


@pytest.mark.parametrize("part_chars", [1, 3, 100])
async def test_a_file_is_read_part_by_part(
    system: System, kernel: ScriptedKernel, part_chars: int
) -> None:
    whole = "zwölf Boxkämpfer\n"

    def script(call: ReadFile) -> FileText:
        rest = whole[call.offset :]
        return FileText(rest[:part_chars], len(rest) > part_chars)

    async with running() as tasks:
        tasks.start_soon(kernel.serve, script)
        assert await system.read_file("a.txt") == whole

    assert len(kernel.calls) == -(-len(whole) // part_chars)


async def test_a_goodbye_is_raised_as_the_error_that_it_brings(
    pipes: tuple[Pipe, Pipe], kernel: ScriptedKernel
) -> None:
    await kernel.frames.send(Goodbye(E_KERNEL("stopping").reply()))

    with pytest.raises(E_KERNEL, match="stopping"):
        await System(FrameStream(pipes[0])).receive()


async def test_the_kernels_end_is_the_end_of_the_stream(
    pipes: tuple[Pipe, Pipe], kernel: ScriptedKernel
) -> None:
    await kernel.frames.aclose()

    with pytest.raises(EndOfStream):
        await System(FrameStream(pipes[0])).receive()


@pytest.mark.parametrize("frame", [Welcome(7, ("a", "b")), Deliver("TERM")])
async def test_a_welcome_and_a_signal_are_handed_to_the_reader(
    pipes: tuple[Pipe, Pipe], kernel: ScriptedKernel, frame: Welcome | Deliver
) -> None:
    await kernel.frames.send(frame)

    assert await System(FrameStream(pipes[0])).receive() == frame


async def test_a_reply_that_is_not_of_the_calls_type_is_an_error(
    system: System, kernel: ScriptedKernel
) -> None:
    async with running() as tasks:
        tasks.start_soon(kernel.serve, lambda call: RandomNumber(0.5))
        with pytest.raises(E_ARG):
            await system.getpid()


async def test_a_call_that_is_cancelled_after_the_kernel_has_gone_is_only_cancelled(
    pipes: tuple[Pipe, Pipe], kernel: ScriptedKernel
) -> None:
    system = System(FrameStream(pipes[0]))

    async with create_task_group() as tasks:
        tasks.start_soon(system.sleep, 1000.0)
        await kernel.receive_call()
        await kernel.frames.aclose()
        tasks.cancel_scope.cancel()

    with pytest.raises(EndOfStream):
        await system.receive()


def test_main_is_async_and_takes_the_system() -> None:
    async def main(sys: System) -> None: ...

    async def empty() -> None: ...

    assert app(main) is main
    with pytest.raises(TypeError, match="no parameter"):
        app(empty)
    with pytest.raises(TypeError, match="async function"):
        app(print)  # type: ignore[type-var]


async def test_a_strand_stays_with_its_branch_across_awaits(
    system: System, kernel: ScriptedKernel
) -> None:
    async def branch() -> None:
        for _ in range(3):
            await checkpoint()
            await system.getpid()

    async with running() as tasks:
        tasks.start_soon(kernel.serve, say_pid)
        await system.gather(branch(), branch())

    for strand in ("0.1", "0.2"):
        assert [seq for name, seq, _ in kernel.calls if name == strand] == [0, 1, 2]


async def test_replies_may_come_in_any_order(system: System, kernel: ScriptedKernel) -> None:
    numbers: dict[int, float] = {}

    async def draw(index: int) -> None:
        numbers[index] = await system.random()

    async with create_task_group() as tasks:
        for index in range(3):
            tasks.start_soon(draw, index)
        requests = [await kernel.receive_call() for _ in range(3)]
        for request in reversed(requests):
            value = msgspec.Raw(msgspec.msgpack.encode(RandomNumber(request.seq / 4)))
            await kernel.frames.send(Reply(request.strand, request.seq, value))

    assert numbers == {0: 0.0, 1: 0.25, 2: 0.5}
