"""The executor process: messages in, steps, messages out, until the kernel is gone.

Run as `python -m llmos.kernel.executor.worker --fd N` with N an inherited socket. It leaves with
its kernel: on end of file, on SIGTERM, and (Linux) when its parent dies. Standard output belongs
to the libraries and goes where standard error goes.
"""

import argparse
import ctypes
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Sequence

from llmos.syscalls.errors import E_MODEL, SyscallError

from .allocator import keep_freed_memory
from .protocol import (
    BeginTrace,
    Cancel,
    Channel,
    Done,
    Embed,
    EndTrace,
    FromExecutor,
    FromKernel,
    Generate,
    Heartbeat,
    Hint,
    Load,
    LoadFailed,
    Pause,
    Resume,
    Score,
    Stats,
    Token,
)

_HEARTBEAT_SECONDS = 1.0
_LEAVING_SECONDS = 5.0
_LOAD_FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
_PR_SET_PDEATHSIG = 1
ENVIRONMENT = {
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # as the kernel numbers them
    "GOMP_SPINCOUNT": "10000",  # who waits longer keeps a core from the thread that it waits for
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def main() -> int:
    """Serve the socket named on the command line."""
    parser = argparse.ArgumentParser(prog="llmos.kernel.executor.worker")
    parser.add_argument("--fd", type=int, required=True)
    fd = parser.parse_args().fd
    _leave_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)
    os.environ.update(ENVIRONMENT)
    try:
        return serve(Channel(socket.socket(fileno=fd)))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return 0


def _leave_with_parent() -> None:
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(0)


def serve(channel: Channel) -> int:
    """Load what the first message names, then work. Returns the exit status.

    Raises EOFError when the kernel closes the socket.
    """
    first, *rest = channel.receive(wait=True)
    if not isinstance(first, Load):
        raise ValueError(f"the first message is {type(first).__name__}, not Load")
    try:
        loop = _Loop(channel, first)
    except SyscallError as error:
        channel.send([LoadFailed(error.reply())])
        return 1
    except _LOAD_FAULTS as error:
        traceback.print_exc()
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        channel.send([LoadFailed(E_MODEL(f"{first.model} cannot be loaded: {reason}").reply())])
        return 1
    loop.accept(rest)
    try:
        while True:
            loop.turn()
    except EOFError:
        loop.leave()
        raise


class _Loop:
    """One engine and its socket."""

    def __init__(self, channel: Channel, spec: Load) -> None:
        if os.path.isdir(spec.model):
            os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub's client is imported
        try:
            from .engine import Engine
        except ModuleNotFoundError as error:
            reason = f"{error.name} is not installed; fix: pip install 'llmos[local]'"
            raise E_MODEL(reason) from None
        self._channel = channel
        self._engine = Engine(spec)
        keep_freed_memory()
        self._is_checked = True
        self._sent_at = 0.0
        self._send([self._engine.loaded])

    def turn(self) -> None:
        """Take in what has arrived, then make one step; when idle, see to the pages and wait."""
        has_work = self._engine.has_work
        if not has_work and not self._is_checked:
            self._engine.check_integrity()
        self._is_checked = not has_work
        is_done = not has_work and not self._engine.rest()
        self._engine.meter.enter("idle")
        messages = self._channel.receive(wait=is_done)
        self._engine.meter.enter("receive")
        self.accept(messages)
        outputs = join_ends(self._engine.step())
        self._engine.meter.enter("send")
        self._send(outputs)

    def leave(self) -> None:
        """The kernel wants nothing more. What it wanted kept goes to disk, in bounded time."""
        ends_at = time.monotonic() + _LEAVING_SECONDS
        while not self._engine.has_work and self._engine.rest() and time.monotonic() < ends_at:
            pass  # it waits for the disk inside
        self._engine.close()

    def accept(self, messages: list[FromKernel]) -> None:
        """Act on messages in order; each may take a while."""
        for message in messages:
            self._take(message)
            self._send([])

    def _send(self, messages: list[FromExecutor]) -> None:
        """Send messages; none for a second is a sign of life."""
        now = time.monotonic()
        if not messages and now - self._sent_at >= _HEARTBEAT_SECONDS:
            messages = [Heartbeat()]
        if messages:
            self._channel.send(messages)
            self._sent_at = now

    def _take(self, message: FromKernel) -> None:
        match message:
            case Generate() | Score() | Embed():
                self._engine.submit(message)
            case Cancel():
                self._engine.cancel(message.id)
            case Pause():
                self._engine.pause(message.id)
            case Resume():
                self._engine.resume(message.id)
            case Hint():
                self._engine.hint(message)
            case Stats():
                self._send([self._engine.collect_stats()])
            case BeginTrace():
                self._engine.meter.begin_trace()
            case EndTrace():
                self._send([self._engine.meter.end_trace()])
            case Load():
                raise ValueError("a second Load")


def join_ends(outputs: Sequence[FromExecutor]) -> list[FromExecutor]:
    """Outputs without the text that a generation's result brings with it.

    Sent apart, the two could be parted by a death, and the text have its end and not know it.
    """
    ended = {output.id for output in outputs if isinstance(output, Done)}
    return [one for one in outputs if not (isinstance(one, Token) and one.id in ended)]


if __name__ == "__main__":
    sys.exit(main())
