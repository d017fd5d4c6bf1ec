"""Bytes that are no calls: each is answered as the design says, and nobody else notices."""

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import anyio
import msgspec
import pytest
from anyio.abc import UNIXSocketStream

from llmos.kernel.gates.app import serve_app
from llmos.kernel.machine import Machine
from llmos.kernel.process import MAX_CALLS_IN_FLIGHT, Process
from llmos.syscalls.errors import E_ARG, E_BUSY, E_FRAME, E_NONDETERMINISM, E_PERM
from llmos.syscalls.stream import BytesOnlyStream
from llmos.syscalls.wire import (
    MAX_FRAME_BYTES,
    PROTOCOL_VERSION,
    Cancel,
    Failure,
    FrameStream,
    FromKernel,
    Goodbye,
    Hello,
    Reply,
    Request,
    Welcome,
    decode,
    encode_frame,
)

from .conftest import TOKEN, Attach, make_process, open_gate, read_rows

pytestmark = pytest.mark.anyio
_decoder = msgspec.msgpack.Decoder(FromKernel)
_DATA = Path(__file__).parents[3] / "shared" / "data" / "security"


@pytest.fixture
async def process(machine: Machine, tmp_path: Path) -> Process:
    return await make_process(machine, tmp_path)


@pytest.fixture
async def raw(machine: Machine, process: Process) -> AsyncIterator[UNIXSocketStream]:
    async with open_gate(machine, process) as stream:
        yield stream


@pytest.fixture
async def frames(raw: UNIXSocketStream, process: Process) -> FrameStream:
    frames = FrameStream(raw)
    await frames.send(Hello(PROTOCOL_VERSION, process.pid, TOKEN))
    assert isinstance(await receive(frames), Welcome)
    return frames


async def receive(frames: FrameStream) -> FromKernel:
    with anyio.fail_after(20):
        frame: FromKernel = decode(await frames.receive(), _decoder)
    return frame


async def goodbye_of(raw: UNIXSocketStream) -> str:
    """The code that the kernel says goodbye with, after which the stream must end."""
    frames = FrameStream(raw)
    frame = await receive(frames)
    assert isinstance(frame, Goodbye)
    with anyio.fail_after(20), pytest.raises(anyio.EndOfStream):
        await frames.receive()
    return frame.error.code


def request(name: str, args: object, seq: int = 0, strand: str = "0") -> Request:
    return Request(strand, seq, name, msgspec.Raw(msgspec.msgpack.encode(args)))


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">I", 0),
        struct.pack(">I", MAX_FRAME_BYTES + 1),
        struct.pack(">I", 2**32 - 1),
        b"GET / HTTP/1.1\r\n\r\n",
        encode_frame({"type": "call"})[:4] + b"\xc1" * 12,
    ],
)
async def test_garbage_before_hello_closes_the_stream(raw: UNIXSocketStream, data: bytes) -> None:
    await raw.send(data)

    assert await goodbye_of(raw) in {"E_FRAME", "E_DECODE"}


async def test_a_call_before_hello_closes_the_stream(raw: UNIXSocketStream) -> None:
    await FrameStream(raw).send(request("now", {}))

    assert await goodbye_of(raw) == E_FRAME.code


@pytest.mark.parametrize(
    ("hello", "code"),
    [
        (Hello(PROTOCOL_VERSION + 1, 1, TOKEN), E_FRAME.code),
        (Hello(PROTOCOL_VERSION, 999, TOKEN), E_PERM.code),
        (Hello(PROTOCOL_VERSION, 1, "wrong"), E_PERM.code),
        (Hello(PROTOCOL_VERSION, 1, "\u202ewröng"), E_PERM.code),
    ],
)
async def test_a_hello_of_somebody_else_is_refused(
    raw: UNIXSocketStream, hello: Hello, code: str
) -> None:
    await FrameStream(raw).send(hello)

    assert await goodbye_of(raw) == code


async def test_a_second_hello_closes_the_stream(
    raw: UNIXSocketStream, frames: FrameStream, process: Process
) -> None:
    await frames.send(Hello(PROTOCOL_VERSION, process.pid, TOKEN))

    assert await goodbye_of(raw) == E_FRAME.code


@pytest.mark.parametrize(
    "args",
    [
        b"\xc1",
        b"\x81\xa4text\xa2\xff\xfe",
        b"\x91" * 100_000,
        b"\xc7\x00\x05",
        b"\xd6\xff\xff\xff\xff\xff",
        b"\x80\x80",
        b"\x81\xa4text\xa3\xed\xa0\x80",
    ],
    ids=["0xc1", "invalid utf-8", "deep", "ext", "timestamp", "trailing", "lone surrogate"],
)
async def test_hostile_arguments_are_a_reply_or_a_goodbye_and_leave_no_row(
    machine: Machine, raw: UNIXSocketStream, frames: FrameStream, process: Process, args: bytes
) -> None:
    await frames.send(Request("0", 0, "print", msgspec.Raw(args)))

    frame = await receive(frames)

    assert isinstance(frame, Failure | Goodbye)
    assert frame.error.code in {"E_ARG", "E_DECODE"}
    assert await read_rows(machine, process) == []


@pytest.mark.parametrize(
    ("name", "args", "field"),
    [
        ("no_such_call", {}, "name"),
        ("print", {"text": 7}, "text"),
        ("print", {}, None),
        ("sleep", {"seconds": float("nan")}, "seconds"),
        ("sleep", {"seconds": -1}, "seconds"),
        ("sleep", {"seconds": True}, "seconds"),
        ("wait", {"pid": 2**63}, "pid"),
        ("recall", {"query": "x", "limit": 0}, "limit"),
        ("recall", {"query": "x", "limit": 1001}, "limit"),
        ("recall", {"query": ""}, "query"),
        ("recall", {"query": "x" * 1_000_000}, "query"),
        ("generate", {"sampling": {"max_tokens": True}}, "sampling.max_tokens"),
        ("generate", {"messages": [{"role": "king", "content": ""}]}, "messages[0].role"),
    ],
)
async def test_a_bad_call_names_its_field_and_the_next_one_works(
    machine: Machine,
    frames: FrameStream,
    process: Process,
    name: str,
    args: object,
    field: str | None,
) -> None:
    await frames.send(request(name, args))
    await frames.send(request("getpid", {}, seq=1))

    first, second = await receive(frames), await receive(frames)

    assert isinstance(first, Failure)
    assert (first.error.code, first.error.field) == (E_ARG.code, field)
    assert isinstance(second, Reply)
    assert await read_rows(machine, process) == []


@pytest.mark.parametrize("seq", [1, 7, 2**53])
async def test_a_gap_in_the_numbers_is_named(frames: FrameStream, seq: int) -> None:
    await frames.send(request("getpid", {}, seq=seq))

    frame = await receive(frames)

    assert isinstance(frame, Failure)
    assert (frame.error.code, frame.error.field) == ("E_SEQ", "seq")


async def ask(frames: FrameStream, call: Request | Cancel) -> Reply | Failure:
    """Send a call and wait for its answer; or a cancel, and wait for the call's."""
    await frames.send(call)
    frame = await receive(frames)
    assert isinstance(frame, Reply | Failure)
    return frame


def code_of(answer: Reply | Failure) -> str:
    return answer.error.code if isinstance(answer, Failure) else "ok"


async def test_a_call_that_comes_again_is_answered_from_its_row(
    machine: Machine, frames: FrameStream, process: Process
) -> None:
    first = await ask(frames, request("random", {}))
    second = await ask(frames, request("random", {}))

    assert isinstance(first, Reply)
    assert second == first
    assert len(await read_rows(machine, process)) == 1


async def test_an_error_that_is_journaled_comes_again_too(
    machine: Machine, frames: FrameStream, process: Process
) -> None:
    call = request("read_file", {"path": "nothing.txt"})

    first, second = await ask(frames, call), await ask(frames, call)

    assert code_of(first) == E_ARG.code
    assert second == first
    assert len(await read_rows(machine, process)) == 1


async def test_a_number_that_comes_again_with_another_call_is_refused(
    machine: Machine, frames: FrameStream, process: Process
) -> None:
    await ask(frames, request("sleep", {"seconds": 0.0}))

    answers = [
        await ask(frames, request("sleep", {"seconds": 1.0})),
        await ask(frames, request("now", {})),
    ]

    assert list(map(code_of, answers)) == [E_NONDETERMINISM.code] * 2
    assert len(await read_rows(machine, process)) == 1


async def test_the_number_of_a_rejected_call_may_come_again(
    machine: Machine, frames: FrameStream, process: Process
) -> None:
    rejected = await ask(frames, request("print", {"text": 7}))

    accepted = await ask(frames, request("print", {"text": "seven"}))

    assert (code_of(rejected), code_of(accepted)) == (E_ARG.code, "ok")
    (row,) = await read_rows(machine, process)
    assert (row.seq, row.state) == (0, "DONE")


async def test_a_number_under_way_is_busy_and_never_another_calls(frames: FrameStream) -> None:
    await frames.send(request("sleep", {"seconds": 1000.0}))

    same = await ask(frames, request("sleep", {"seconds": 1000.0}))
    other = await ask(frames, request("sleep", {"seconds": 1.0}))

    assert (code_of(same), code_of(other)) == (E_BUSY.code, E_NONDETERMINISM.code)


async def test_too_many_calls_at_once_are_told_when_to_come_back(frames: FrameStream) -> None:
    for seq in range(MAX_CALLS_IN_FLIGHT):
        await frames.send(request("sleep", {"seconds": 1000.0}, seq=seq))
    late = request("random", {}, seq=MAX_CALLS_IN_FLIGHT)

    busy = await ask(frames, late)
    assert isinstance(busy, Failure)
    assert (busy.error.code, busy.error.field) == (E_BUSY.code, "seq")
    assert busy.error.retry_after_seconds
    assert code_of(await ask(frames, Cancel("0", 7))) == "E_CANCELLED"

    assert code_of(await ask(frames, late)) == "ok"


async def test_a_call_after_one_that_was_refused_for_want_of_room_leaves_no_gap(
    frames: FrameStream,
) -> None:
    for seq in range(MAX_CALLS_IN_FLIGHT):
        await frames.send(request("sleep", {"seconds": 1000.0}, seq=seq))
    await ask(frames, request("random", {}, seq=MAX_CALLS_IN_FLIGHT))
    await ask(frames, Cancel("0", 7))

    answer = await ask(frames, request("random", {}, seq=MAX_CALLS_IN_FLIGHT + 1))

    assert code_of(answer) == "ok"


async def test_calls_that_arrive_all_together_are_answered_in_their_order(
    raw: UNIXSocketStream, frames: FrameStream
) -> None:
    num_calls = 2 * MAX_CALLS_IN_FLIGHT

    calls = [encode_frame(request("getpid", {}, seq=seq)) for seq in range(num_calls)]
    await raw.send(b"".join(calls))

    answers = [await receive(frames) for _ in range(num_calls)]
    assert [answer.seq for answer in answers if isinstance(answer, Reply)] == [*range(num_calls)]


async def test_who_handled_a_call_leaves_when_others_are_there_for_the_next(
    frames: FrameStream,
) -> None:
    num_before = len(anyio.get_running_tasks())
    for seq in range(50):
        await frames.send(request("sleep", {"seconds": 1000.0}, seq=seq))
    for seq in range(50):
        await ask(frames, Cancel("0", seq))
    await ask(frames, request("getpid", {}, seq=50))

    assert len(anyio.get_running_tasks()) <= num_before + 1


async def test_a_truncated_frame_ends_only_its_own_process(
    machine: Machine, attach: Attach, tmp_path: Path
) -> None:
    other, _ = await attach()
    process = await make_process(machine, tmp_path)

    async with open_gate(machine, process) as raw:
        await raw.send(struct.pack(">I", 100) + b"half")
        await raw.send_eof()
        assert await goodbye_of(raw) == E_FRAME.code

    assert await other.random() < 1


@pytest.mark.parametrize("num_descriptors", [1, 60])
async def test_descriptors_that_come_along_close_the_stream_and_are_held_by_nobody(
    raw: UNIXSocketStream, frames: FrameStream, attach: Attach, num_descriptors: int
) -> None:
    other, _ = await attach()
    reader, writer = os.pipe()

    await raw.send_fds(encode_frame(request("getpid", {})), [writer] * num_descriptors)
    os.close(writer)

    assert await goodbye_of(raw) == E_FRAME.code
    assert os.read(reader, 1) == b""
    os.close(reader)
    assert await other.random() < 1


async def test_descriptors_with_hello_close_the_stream(
    raw: UNIXSocketStream, process: Process, tmp_path: Path
) -> None:
    with (tmp_path / "secret").open("w") as file:
        hello = encode_frame(Hello(PROTOCOL_VERSION, process.pid, TOKEN))
        await raw.send_fds(hello, [file.fileno()])

    assert await goodbye_of(raw) == E_FRAME.code


async def test_a_call_that_comes_in_the_moment_in_which_the_kernel_stops_disturbs_nobody(
    machine: Machine, process: Process
) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        async with aclosing(await BytesOnlyStream.adopt(ours)) as stream:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(serve_app, machine, process, stream, TOKEN)
                stream.data_received(encode_frame(Hello(PROTOCOL_VERSION, process.pid, TOKEN)))
                stream.data_received(encode_frame(request("getpid", {})))
                await anyio.wait_all_tasks_blocked()
                stream.data_received(encode_frame(request("getpid", {}, 1)))
                tasks.cancel_scope.cancel()

    assert process.next_seq == {"0": 2}


async def test_every_encoding_of_the_msgpack_test_suite_gets_an_answer(
    frames: FrameStream, machine: Machine
) -> None:
    suite = _DATA / "msgpack-test-suite" / "msgpack-test-suite.json"
    if not suite.exists():
        pytest.skip("the msgpack test suite is not here")
    groups = msgspec.json.decode(suite.read_bytes(), type=dict[str, list[dict[str, object]]])
    encodings = [
        bytes.fromhex(str(text).replace("-", ""))
        for cases in groups.values()
        for case in cases
        for text in msgspec.convert(case["msgpack"], list[str])
    ]

    for seq, args in enumerate(encodings):
        await frames.send(Request("0", seq, "sleep", msgspec.Raw(args)))
        frame = await receive(frames)
        assert isinstance(frame, Failure), args
        assert frame.error.code in {"E_ARG", "E_DECODE"}


class Mouth:
    """A stream whose bytes arrive at the moment at which the test says so."""

    def __init__(self) -> None:
        self._arrival = asyncio.get_running_loop().create_future()

    async def receive(self, max_bytes: int = 0) -> bytes:
        self._arrival = asyncio.get_running_loop().create_future()
        data: bytes = await self._arrival
        return data

    def say(self, frame: object) -> None:
        self._arrival.set_result(encode_frame(frame))

    async def send(self, item: bytes) -> None:
        await anyio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()


async def test_a_call_that_arrives_as_the_kernel_stops_is_no_fault(
    machine: Machine, process: Process
) -> None:
    mouth = Mouth()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve_app, machine, process, mouth, TOKEN)
        for frame in (Hello(PROTOCOL_VERSION, process.pid, TOKEN), request("getpid", {})):
            await anyio.wait_all_tasks_blocked()
            mouth.say(frame)
        await anyio.wait_all_tasks_blocked()
        mouth.say(request("getpid", {}, seq=1))
        tasks.cancel_scope.cancel()

    assert process.next_seq == {"0": 2}
