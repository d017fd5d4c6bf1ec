"""What an app does to harm the kernel, or only by being broken, harms that app alone."""

import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import anyio
import msgspec
import pytest

from llmos.kernel.applog import AppLog
from llmos.kernel.config import Config
from llmos.kernel.listing import list_processes
from llmos.kernel.machine import Machine
from llmos.kernel.main import boot
from llmos.kernel.process import MAX_CALLS_IN_FLIGHT, Process
from llmos.kernel.protocol import (
    MAX_CONTROL_FRAME_BYTES,
    Ended,
    FromTerminal,
    Logged,
    Output,
    Run,
    ToTerminal,
)
from llmos.kernel.terminal import Terminal
from llmos.syscalls.errors import E_ARG
from llmos.syscalls.process import SignalName
from llmos.syscalls.stream import SocketStream
from llmos.syscalls.wire import FrameStream, decode

from .conftest import MakeApp, prepare, record, start

pytestmark = pytest.mark.anyio


@pytest.fixture
async def machine(config: Config) -> AsyncIterator[Machine]:
    async with boot(config) as machine:
        yield machine


async def finish(process: Process) -> tuple[str, str, str]:
    """Wait for the end: status, result and error."""
    with anyio.fail_after(20):
        await process.ended.wait()
    assert process.exit is not None
    return process.exit.status, process.exit.result, process.exit.error


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """The pipe `fifo` in the workspace, by which an app tells how far it is."""
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


async def read_all(fifo: Path) -> bytes:
    """What an app writes to the pipe, when it has closed it."""
    with anyio.fail_after(20):
        return await anyio.to_thread.run_sync(fifo.read_bytes, abandon_on_cancel=True)


async def hear(machine: Machine, request: FromTerminal, kind: type[ToTerminal]) -> ToTerminal:
    """Ask at the control socket; the first event of this kind."""
    decoder = msgspec.msgpack.Decoder(ToTerminal)
    async with await anyio.connect_unix(machine.config.socket) as stream:
        frames = FrameStream(stream, max_frame_bytes=MAX_CONTROL_FRAME_BYTES)
        await frames.send(request)
        with anyio.fail_after(20):
            while not isinstance(event := decode(await frames.receive(), decoder), kind):
                pass
    return event


async def test_an_app_whose_log_cannot_be_written_runs_on(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    machine.config.logs.rename(machine.config.home / "elsewhere")
    app = make_app("talker", 'print("hello", flush=True)\nreturn "done"')

    process = await start(machine, app, tmp_path)

    assert await finish(process) == ("exited", "done", "")
    assert await process.terminal.next_event() == Logged(process.pid, "hello\n")


async def test_a_full_disk_under_an_apps_log_loses_only_the_log(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    app = make_app("talker", 'print("hello", flush=True)\nreturn "done"')
    machine.config.logs.joinpath("1.log").symlink_to("/dev/full")

    process = await start(machine, app, tmp_path)

    assert await finish(process) == ("exited", "done", "")


async def test_a_child_that_left_with_the_socket_does_not_keep_a_dead_app_alive(
    machine: Machine, make_app: MakeApp, tmp_path: Path, fifo: Path
) -> None:
    body = """
    ready, is_ready = os.pipe()
    if os.fork() == 0:
        os.setsid()
        os.write(is_ready, b".")
        with open("fifo", "wb") as fifo:  # until somebody reads
            fifo.write(b"I am still here")
        os._exit(0)
    os.read(ready, 1)
    os._exit(3)
    """
    process = await start(machine, make_app("leaver", body), tmp_path)

    status, _, _ = await finish(process)

    assert status == "failed"
    assert await read_all(fifo) == b"I am still here"


async def test_calls_whose_replies_nobody_reads_are_bounded(
    machine: Machine, make_app: MakeApp, tmp_path: Path, fifo: Path
) -> None:
    body = """
    from llmos.syscalls.wire import Request, encode, encode_frame
    import msgspec, signal, socket
    raw = sys_._stream._stream._transport.get_extra_info("socket")
    sock = socket.socket(fileno=os.dup(raw.fileno()))
    sock.settimeout(2)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)  # a few calls at once
    try:
        for seq in range(200_000):
            sock.sendall(encode_frame(Request("0", seq, "uuid", msgspec.Raw(encode({})))))
    except TimeoutError:
        with open("fifo", "wb") as fifo:
            fifo.write(b"nobody takes my calls")
    signal.pause()  # to await would be to read replies
    """
    process = await start(machine, make_app("flooder", body), tmp_path)

    assert await read_all(fifo) == b"nobody takes my calls"

    assert len(process.in_flight) == MAX_CALLS_IN_FLIGHT
    machine.launcher.signal(process, "KILL")
    assert (await finish(process))[0] == "killed"


async def test_an_app_that_ends_with_as_much_as_a_frame_holds_is_heard(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    body = """
    from llmos.syscalls.errors import E_CANCELLED
    raise E_CANCELLED("x" * 400, partial="y" * 1_048_000)
    """
    app = make_app("loud", body)

    event = await hear(machine, Run(app, (), str(tmp_path)), Ended)

    assert isinstance(event, Ended)
    assert event.error is not None
    assert event.error.code == "E_CANCELLED"


async def test_long_arguments_do_not_make_a_listing_too_long(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    process = await start(machine, make_app("quick", "return 1"), tmp_path, *["w" * 60_000] * 9)
    await finish(process)

    (info,) = (await list_processes(machine, 10)).processes

    assert len("".join(info.argv)) < 1000
    assert info.argv[0].startswith("www")


async def test_text_that_arrives_in_pieces_stays_whole(tmp_path: Path) -> None:
    terminal = Terminal()
    async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:
        ours, theirs = socket.socketpair()
        log = AppLog(1, tmp_path / "1.log", terminal)
        stream = await stack.enter_async_context(aclosing(await SocketStream.adopt(ours)))
        tasks.start_soon(log.relay, stream)
        for byte in "größer".encode():
            theirs.send(bytes([byte]))
            await anyio.wait_all_tasks_blocked()
        theirs.close()
    terminal.close()

    shown = ""
    while (event := await terminal.next_event()) is not None:
        assert isinstance(event, Logged)
        shown += event.text

    assert shown == "größer"


async def test_an_app_that_writes_without_end_waits_for_a_person_who_reads_slowly(
    machine: Machine, make_app: MakeApp, tmp_path: Path, fifo: Path
) -> None:
    body = """
    import select
    os.set_blocking(1, False)
    left = 100_000_000
    while left > 0 and select.select([], [1], [], 2)[1]:
        left -= os.write(1, b"x" * 1_000_000)
    with open("fifo", "wb") as fifo:
        fifo.write(b"nobody takes my words" if left > 0 else b"all my words are out")
    """
    process = await start(machine, make_app("firehose", body), tmp_path)

    assert await read_all(fifo) == b"nobody takes my words"

    assert not process.terminal.closed.is_set()
    process.terminal.close()

    assert (await finish(process))[0] == "exited"


async def test_a_person_who_does_not_read_is_given_up_before_memory_is() -> None:
    terminal = Terminal()

    for _ in range(20):
        terminal.emit(Output(1, "x" * 1_000_000))

    assert terminal.closed.is_set()


@pytest.mark.parametrize("name", ["KILL", "TERM"])
async def test_a_signal_before_the_first_line_of_code_is_not_lost(
    machine: Machine, make_app: MakeApp, tmp_path: Path, name: SignalName
) -> None:
    app = make_app("early", 'await sys_.print("ran")\ntime.sleep(100)')

    process = await start(machine, app, tmp_path)
    machine.launcher.signal(process, name)

    assert (await finish(process))[0] == "killed"
    assert not process.num_printed_chars


async def test_a_process_that_is_stopped_before_it_runs_stays_stopped(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    process = await start(machine, make_app("early", 'return "done"'), tmp_path)
    machine.launcher.signal(process, "STOP")
    other = await start(machine, make_app("later", 'return "done"'), tmp_path)
    await finish(other)
    state, ended = process.info().state, process.ended.is_set()

    machine.launcher.signal(process, "CONT")

    assert (state, ended) == ("STOPPED", False)
    assert (await finish(process))[1] == "done"


async def test_a_stopped_process_may_say_its_last_words_when_it_is_told_to_end(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    body = """
    try:
        await sys_.generate("!slow 100 " + "word " * 500, show=True)
    finally:
        with anyio.CancelScope(shield=True):
            open("last_words", "w").close()
    """
    process = await start(machine, make_app("stopped", body), tmp_path)
    with anyio.fail_after(20):
        assert await process.terminal.next_event() == Output(process.pid, "word")
    machine.launcher.signal(process, "STOP")

    machine.launcher.signal(process, "TERM")

    assert (await finish(process))[0] == "killed"
    assert (tmp_path / "last_words").exists()
    assert not machine.models.get("echo").driver._paused  # type: ignore[attr-defined]


async def test_a_resume_is_refused_while_another_one_is_under_way(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    app, refused = make_app("sleeper", "await anyio.sleep_forever()"), list[str]()
    birth = prepare(machine, app, tmp_path)
    pid = await record(machine, birth)

    async def resume() -> None:
        try:
            await machine.launcher.resume(pid, Terminal())
        except E_ARG as error:
            refused.append(error.message)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(resume)
        tasks.start_soon(resume)
    process = machine.table.get(pid)

    assert refused == [f"process {pid} is running"]
    assert process is not None
    machine.launcher.signal(process, "KILL")
    assert (await finish(process))[0] == "killed"


async def test_a_process_whose_folder_is_gone_waits_for_it_to_come_back(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    workspace = tmp_path / "work"
    workspace.mkdir()
    app = make_app("worker", 'return "done"').replace(".", str(tmp_path), 1)
    birth = prepare(machine, app, workspace)
    pid = await record(machine, birth)
    workspace.rmdir()

    with pytest.raises(E_ARG, match="no folder"):
        await machine.launcher.resume(pid, Terminal())
    workspace.mkdir()
    process = await machine.launcher.resume(pid, Terminal())

    assert (await finish(process))[1] == "done"


async def test_an_app_that_sends_a_descriptor_along_with_a_call_is_ended(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    body = """
    import socket
    raw = sys_._stream._stream._transport.get_extra_info("socket")
    sock = socket.socket(fileno=os.dup(raw.fileno()))
    socket.send_fds(sock, [b"x"], [1])
    await anyio.sleep_forever()
    """

    process = await start(machine, make_app("giver", body), tmp_path)

    status, _, error = await finish(process)
    assert (status, error.partition(":")[0]) == ("failed", "E_FRAME")
