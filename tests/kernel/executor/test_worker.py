"""The executor process's life: what it answers, and when it leaves."""

import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from llmos.kernel.executor.protocol import (
    Channel,
    Done,
    FrameDecoder,
    FromExecutor,
    Generate,
    Load,
    Loaded,
    LoadFailed,
    Stats,
    StatsReply,
    encode_frame,
)
from llmos.kernel.executor.worker import serve
from llmos.syscalls.types import Message, Sampling

LOAD_ONLY = """
import sys
from llmos.kernel.executor.engine import Engine
from llmos.kernel.executor.protocol import Load
Engine(Load(sys.argv[1]), num_pages=8)
print([name for name in ("torch._dynamo", "torch.distributed.tensor") if name in sys.modules])
import torch._dynamo
print(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item())
"""
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


@pytest.mark.slow
def test_the_process_speaks_the_protocol_and_leaves_on_sigterm(qwen3: Path) -> None:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", "llmos.kernel.executor.worker", "--fd", str(theirs.fileno())]
    with ours, theirs, subprocess.Popen(command, pass_fds=[theirs.fileno()], env=make_env()) as it:
        request = Generate(5, (Message("user", "hi"),), sampling=Sampling(max_tokens=3))
        for message in (Load(str(qwen3)), Stats(), request):
            ours.sendall(encode_frame(message))

        received = read_until_done(ours)
        it.terminate()

        assert [type(received[0]), type(received[-1])] == [Loaded, Done]
        assert any(isinstance(one, StatsReply) for one in received)
        assert it.wait() == -signal.SIGTERM


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
