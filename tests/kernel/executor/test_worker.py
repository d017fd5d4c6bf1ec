"""The executor process's life: what it answers, and when it leaves."""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmos.kernel.executor.protocol import (
    Channel,
    Done,
    Failed,
    FrameDecoder,
    FromExecutor,
    FromKernel,
    Generate,
    Heartbeat,
    Load,
    Loaded,
    LoadFailed,
    Stats,
    Token,
    encode_frame,
)
from llmos.kernel.executor.worker import join_ends, serve
from llmos.kernel.stats import StatsReply
from llmos.syscalls.types import Message, Sampling, Usage

LOAD_ONLY = """
import sys
from llmos.kernel.executor.engine import Engine
from llmos.kernel.executor.protocol import Load
Engine(Load(sys.argv[1]), num_pages=8)
print([name for name in ("torch._dynamo", "torch.distributed.tensor") if name in sys.modules])
import torch._dynamo
print(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item())
"""
ENDLESS = (
    "{% if messages[0].content == 'loop' %}{% for a in range(99999) %}{% for b in range(99999) %}"
    "{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}{% endif %}"
)
ORPHAN = """
import asyncio, pathlib, sys
from llmos.kernel.drivers.local import LocalDriver
async def main():
    driver = LocalDriver(sys.argv[1], log=pathlib.Path(sys.argv[2]))
    await driver.start()
    print(driver.process_id, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def read_until_done(connection: socket.socket) -> list[FromExecutor]:
    frames: FrameDecoder[FromExecutor] = FrameDecoder(FromExecutor)  # type: ignore[arg-type]
    received: list[FromExecutor] = []
    while data := connection.recv(65536):
        received += frames.feed(data)
        if any(isinstance(one, Done) for one in received):
            break
    return received


def test_a_model_that_cannot_be_loaded_is_answered_and_ends_the_process(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(encode_frame(Load(str(tmp_path))))

        status = serve(Channel(theirs))

        frames: FrameDecoder[FromExecutor] = FrameDecoder(FromExecutor)  # type: ignore[arg-type]
        (failed,) = frames.feed(ours.recv(65536))
        assert isinstance(failed, LoadFailed)
        assert (status, failed.error.code) == (1, "E_MODEL")


def test_it_leaves_when_the_kernel_closes_the_socket(qwen3: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(encode_frame(Load(str(qwen3))))
        ours.shutdown(socket.SHUT_WR)

        with pytest.raises(EOFError):
            serve(Channel(theirs))


@contextmanager
def running_worker(
    *messages: FromKernel,
) -> Iterator[tuple[socket.socket, subprocess.Popen[bytes]]]:
    """A worker that has been sent messages, and our end of its socket."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "llmos.kernel.executor.worker", "--fd", str(theirs.fileno())]
    with ours, theirs, subprocess.Popen(command, pass_fds=[theirs.fileno()], env=make_env()) as it:
        ours.sendall(b"".join(map(encode_frame, messages)))
        yield ours, it
        it.terminate()


def ask(number: int, text: str = "hi") -> Generate:
    return Generate(number, (Message("user", text),), sampling=Sampling(max_tokens=3))


@pytest.mark.slow
def test_the_process_speaks_the_protocol_and_leaves_on_sigterm(qwen3: Path) -> None:
    with running_worker(Load(str(qwen3)), Stats(), ask(5)) as (ours, it):
        received = read_until_done(ours)
        it.terminate()

        assert [type(received[0]), type(received[-1])] == [Loaded, Done]
        assert any(isinstance(one, StatsReply) for one in received)
        assert it.wait() == -signal.SIGTERM


@pytest.mark.slow
def test_a_template_that_does_not_end_is_an_error_and_the_next_request_runs(
    make_copy: Callable[[str], Path],
) -> None:
    folder = make_copy("qwen3")
    template = folder / "chat_template.jinja"
    template.write_text(ENDLESS + template.read_text())

    with running_worker(Load(str(folder)), ask(5, "loop"), ask(6)) as (ours, _):
        received = read_until_done(ours)

    failed = [one for one in received if isinstance(one, Failed)]
    assert [(one.id, one.error.code) for one in failed] == [(5, "E_MODEL")]
    assert [one.id for one in received if isinstance(one, Done)] == [6]
    assert any(isinstance(one, Heartbeat) for one in received)


@pytest.mark.slow
def test_a_model_that_breaks_while_it_is_built_is_answered_in_a_line(
    make_copy: Callable[[str], Path],
) -> None:
    folder = make_copy("qwen3")
    (folder / "generation_config.json").write_text('{"eos_token_id": {"a": 1}}')
    frames: FrameDecoder[FromExecutor] = FrameDecoder(FromExecutor)  # type: ignore[arg-type]

    with running_worker(Load(str(folder))) as (ours, _):
        (failed,) = frames.feed(ours.recv(65536))

    assert isinstance(failed, LoadFailed)
    assert failed.error.code == "E_MODEL"
    assert "\n" not in failed.error.message


def test_a_result_brings_its_last_text_itself() -> None:
    done = Done(1, "Hello", (1, 2), (), "stop", Usage(3, 0, 2))
    outputs: list[FromExecutor] = [Token(1, "lo", 2, (2,)), done, Token(2, "Hi", 1, (1,))]

    assert join_ends(outputs) == [done, outputs[-1]]


@pytest.mark.slow
def test_loading_leaves_the_compiler_out_and_usable(qwen3: Path) -> None:
    command = [sys.executable, "-c", LOAD_ONLY, str(qwen3)]

    result = subprocess.run(command, capture_output=True, text=True, env=make_env(), check=False)

    assert result.stdout.split("\n")[:2] == ["[]", "2.0"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the parent's death signal is Linux's")
def test_it_does_not_outlive_a_killed_parent(qwen3: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", ORPHAN, str(qwen3), str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=make_env()) as parent:
        assert parent.stdout
        worker = os.pidfd_open(int(parent.stdout.readline()))

        parent.kill()

        with os.fdopen(worker) as ended:
            assert wait_readable(ended.fileno())


def make_env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def wait_readable(fd: int) -> bool:
    """A pidfd is readable once its process has ended."""
    return bool(select.select([fd], [], [], 10)[0])
