"""The zygote: an OS process with the SDK already imported, from which app processes are forked.

It is started before the kernel has a database or a thread, holds neither, and forks in
milliseconds. It is the parent of every app process, so it alone reaps them and can signal them
without hitting a reused pid. When the kernel goes away, it kills what is left and ends.

Messages are datagrams of a SOCK_SEQPACKET pair; a Fork carries the app's socket beside it.
Idea and name: Android's zygote.
"""

import gc
import os
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress

import anyio
import msgspec

from llmos.syscalls.runtime import Program, run_app

MAX_DATAGRAM_BYTES = 65_536
KEPT_ENVIRONMENT = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "PYTHONDONTWRITEBYTECODE",
)


class Fork(msgspec.Struct, frozen=True, tag="fork"):
    """Start this program; its socket and the one for its log come with the datagram."""

    program: Program


class SendSignal(msgspec.Struct, frozen=True, tag="signal"):
    """Signal the process group of a program, if it has not been reaped."""

    pid: int
    signal_number: int


class Died(msgspec.Struct, frozen=True, tag="died"):
    """A program's OS process is gone. `status` is what waitpid said."""

    pid: int
    status: int


class Forked(msgspec.Struct, frozen=True, tag="forked"):
    """A program runs as this OS process."""

    pid: int
    os_pid: int


_to_zygote = msgspec.msgpack.Decoder(Fork | SendSignal)
_from_zygote = msgspec.msgpack.Decoder(Died | Forked)
_encode = msgspec.msgpack.encode


class Zygote:
    """The kernel's end: forks programs and tells when they die."""

    def __init__(self, sock: socket.socket, os_process: "subprocess.Popen[bytes]") -> None:
        self._socket = sock
        self._os_process = os_process
        self._forking = anyio.Lock()
        self._deaths: dict[int, anyio.Event] = {}
        self.statuses: dict[int, int] = {}
        self.os_pids: dict[int, int] = {}

    @classmethod
    def start(cls, environ: Mapping[str, str]) -> "Zygote":
        """Start the OS process. Its environment, and so every app's, is an allow-list."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        env = {name: environ[name] for name in KEPT_ENVIRONMENT if name in environ}
        with theirs:
            os_process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=env | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,
            )
        ours.setblocking(False)
        return cls(ours, os_process)

    async def fork(
        self, program: Program, app_socket: socket.socket, log_socket: socket.socket
    ) -> None:
        """Ask for a program to be started; it owns the sockets then."""
        with app_socket, log_socket:
            async with self._forking:  # only one task may wait for a socket
                await anyio.wait_writable(self._socket)
                fds = [app_socket.fileno(), log_socket.fileno()]
                socket.send_fds(self._socket, [_encode(Fork(program))], fds)
                self._deaths[program.pid] = anyio.Event()

    def send_signal(self, pid: int, signal_number: int) -> None:
        """Signal a program's process group; nothing happens if it is gone."""
        try:
            self._socket.send(_encode(SendSignal(pid, signal_number)))
        except OSError:
            return

    async def watch(self) -> None:
        """Read what the zygote tells. If it ends, its programs end too: nobody would reap them."""
        while True:
            await anyio.wait_readable(self._socket)
            try:
                datagram = self._socket.recv(MAX_DATAGRAM_BYTES)
            except ConnectionError:  # it ended with something unread
                break
            if not datagram:
                break
            message = _from_zygote.decode(datagram)
            if isinstance(message, Forked):
                self.os_pids[message.pid] = message.os_pid
            else:
                self._mark_dead(message.pid, message.status)
        for os_pid in self.os_pids.values():
            _kill_group(os_pid)
        for pid in list(self._deaths):
            self._mark_dead(pid, signal.SIGKILL)

    def _mark_dead(self, pid: int, status: int) -> None:
        self.statuses[pid] = status
        self._deaths.pop(pid).set()

    async def wait_dead(self, pid: int) -> None:
        """Wait until a program is gone; any number of tasks may."""
        if pid in self._deaths:
            await self._deaths[pid].wait()

    async def wait(self, pid: int) -> int:
        """Wait until a program is gone; returns its waitpid status, once."""
        await self.wait_dead(pid)
        self.os_pids.pop(pid, None)
        return self.statuses.pop(pid)

    def close(self) -> None:
        """Let the zygote end, and with it every program that is left."""
        self._socket.close()
        self._os_process.wait()


class Nursery:
    """The zygote's end: what it has forked and not yet reaped."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._os_pids: dict[int, int] = {}
        self._wakeup, wakeup_write = socket.socketpair()
        self._wakeup.setblocking(False)
        wakeup_write.setblocking(False)
        self._wakeup_write = wakeup_write
        signal.set_wakeup_fd(wakeup_write.fileno())
        signal.signal(signal.SIGCHLD, lambda number, frame: None)

    def run(self) -> tuple[Program, socket.socket] | None:
        """Serve until the kernel goes (None), or, in a forked child, return what it is to run."""
        while True:
            ready, _, _ = select.select([self._socket, self._wakeup], [], [])
            if self._wakeup in ready:
                self._wakeup.recv(4096)
                self._reap()
            if self._socket in ready:
                datagram, fds = self._receive()
                if not datagram:
                    self._kill_all()
                    return None
                child = self._obey(datagram, fds)
                if child is not None:
                    return child

    def _receive(self) -> tuple[bytes, list[int]]:
        """A message and its descriptors; an empty one when the kernel is gone."""
        try:
            datagram, fds, _, _ = socket.recv_fds(self._socket, MAX_DATAGRAM_BYTES, 2)
        except ConnectionError:  # it went with something unread
            return b"", []
        return datagram, fds

    def _tell(self, message: Forked | Died) -> None:
        with suppress(ConnectionError):  # the kernel is gone, which `run` sees next
            self._socket.send(_encode(message))

    def _obey(self, datagram: bytes, fds: list[int]) -> tuple[Program, socket.socket] | None:
        message = _to_zygote.decode(datagram)
        if isinstance(message, SendSignal):
            if message.pid in self._os_pids:
                _signal_group(self._os_pids[message.pid], message.signal_number)
            return None
        app_socket, log_socket = (socket.socket(fileno=fd) for fd in fds)
        try:
            os_pid = os.fork()
        except OSError as error:  # no room for a process more
            log_socket.send(f"the zygote cannot fork: {error.strerror}".encode())
            app_socket.close()
            log_socket.close()
            self._tell(Died(message.program.pid, signal.SIGKILL))
            return None
        if os_pid == 0:
            self._become(message.program, log_socket)
            return message.program, app_socket
        app_socket.close()
        log_socket.close()
        self._os_pids[message.program.pid] = os_pid
        self._tell(Forked(message.program.pid, os_pid))
        return None

    def _become(self, program: Program, log_socket: socket.socket) -> None:
        """Leave the zygote's life behind: descriptors, handlers, process group."""
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for ours in (self._socket, self._wakeup, self._wakeup_write):
            ours.close()
        with log_socket:
            os.dup2(log_socket.fileno(), 1)
            os.dup2(log_socket.fileno(), 2)
        os.chdir(program.workspace)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def _reap(self) -> None:
        pids = {os_pid: pid for pid, os_pid in self._os_pids.items()}
        while self._os_pids:
            os_pid, status = os.waitpid(-1, os.WNOHANG)
            if os_pid == 0:
                return
            pid = pids[os_pid]
            del self._os_pids[pid]
            _kill_group(os_pid)
            self._tell(Died(pid, status))

    def _kill_all(self) -> None:
        for os_pid in self._os_pids.values():
            _kill_group(os_pid)


def _signal_group(os_pid: int, signal_number: int) -> None:
    """Signal an app's process group, or the app alone while it has not made its group yet."""
    try:
        os.killpg(os_pid, signal_number)
    except ProcessLookupError:
        os.kill(os_pid, signal_number)


def _kill_group(os_pid: int) -> None:
    """Kill what an app left behind in its process group."""
    try:
        os.killpg(os_pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def main() -> int:
    """The zygote's program: serve; in a child, run the app."""
    import anyio._backends._asyncio  # noqa: F401  # so that no child has to import it

    sock = socket.socket(fileno=int(sys.argv[1]))
    gc.collect()
    gc.freeze()
    child = Nursery(sock).run()
    if child is None:
        return 0
    gc.unfreeze()
    return run_app(*child)


if __name__ == "__main__":
    raise SystemExit(main())
