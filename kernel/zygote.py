"""The zygote: an OS process with the SDK already imported, from which app processes are forked.

It is started before the kernel has a database or a thread, holds neither, and forks in
milliseconds. It is the parent of every app process, so it alone reaps them and can signal them
without hitting a reused pid. When the kernel goes away, it kills what is left and ends.

When the zygote dies, its programs die with it, since nobody could reap them: on Linux each asks
for that (PR_SET_PDEATHSIG), elsewhere the kernel kills the ones that it knows. The kernel's end
then starts another one. It is started by exec, which inherits neither database nor thread.

Messages are datagrams of a SOCK_SEQPACKET pair; a Fork carries the app's socket beside it.
Idea and name: Android's zygote.
"""

import gc
import logging
import os
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress

import anyio
import msgspec

from llmos.syscalls.errors import E_KERNEL, E_LIMIT
from llmos.syscalls.runtime import Program, run_app

MAX_DATAGRAM_BYTES = 65_536
MAX_DEATHS = 4
STEADY_SECONDS = 5.0  # one that lived this long did not die at once
FIRST_RETRY_SECONDS = 0.1
MAX_RETRY_SECONDS = 10.0
PR_SET_PDEATHSIG = 1
KEPT_ENVIRONMENT = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "PYTHONDONTWRITEBYTECODE",
)
logger = logging.getLogger(__name__)


class Fork(msgspec.Struct, frozen=True, tag="fork"):
    """Start this program; its socket and the one for its log come with the datagram.

    `pid` is what all other messages call it by.
    """

    pid: int
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


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The operating system would not fork for a program."""

    pid: int
    reason: str


_to_zygote = msgspec.msgpack.Decoder(Fork | SendSignal)
_from_zygote = msgspec.msgpack.Decoder(Died | Forked | Refused)
_encode = msgspec.msgpack.encode


class Child:
    """A program as the kernel knows it. `status` is waitpid's, or None: lost with its zygote."""

    def __init__(self) -> None:
        self.os_pid: int | None = None
        self.refusal: str | None = None
        self.status: int | None = None
        self.answered = anyio.Event()
        self.dead = anyio.Event()


class Zygote:
    """The kernel's end: forks programs and tells when they die. `watch` must run beside it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = {name: environ[name] for name in KEPT_ENVIRONMENT if name in environ}
        self._children: dict[int, Child] = {}
        self._forking = anyio.Lock()
        self._num_deaths = 0  # in a row
        self._is_up = anyio.Event()
        self._socket, self._os_process = self._launch()
        self._is_up.set()

    def _launch(self) -> tuple[socket.socket, "subprocess.Popen[bytes]"]:
        """Start the OS process. Its environment, and so every app's, is an allow-list."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            os_process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=self._environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,
            )
        ours.setblocking(False)
        return ours, os_process

    @property
    def os_pid(self) -> int:
        """The zygote's own OS process."""
        return self._os_process.pid

    @property
    def is_up(self) -> bool:
        """Whether programs can be started now."""
        return self._is_up.is_set()

    def require_working(self) -> None:
        """E_KERNEL while zygotes die as fast as they are started."""
        if not self.is_up and self._num_deaths >= MAX_DEATHS:
            raise E_KERNEL(
                f"no app can be started: the zygote died {self._num_deaths} times in a row; "
                "fix: see logs/kernel.log in the state directory, then try again",
                retry_after_seconds=self._retry_seconds(),
            )

    async def wait_up(self) -> None:
        """Wait until a zygote runs. E_KERNEL while they die as fast as they are started."""
        self.require_working()
        await self._is_up.wait()

    async def fork(
        self,
        program: Program,
        app_socket: socket.socket,
        log_socket: socket.socket,
        pid: int | None = None,
    ) -> None:
        """Start a program, which owns the sockets then; returns when it runs, or is lost already.

        It is known here by `pid`, or else by its own: a replay runs beside the process it is of.
        E_LIMIT when the operating system has no room for another process.
        """
        pid = program.pid if pid is None else pid
        child = self._children[pid] = Child()
        with app_socket, log_socket:
            async with self._forking:  # only one task may wait for a socket
                await self._send_fork(Fork(pid, program), child, (app_socket, log_socket))
            await child.answered.wait()
        if child.refusal is not None:
            del self._children[pid]
            raise E_LIMIT(
                f"the operating system starts no process more: {child.refusal}; "
                "fix: end some processes, or raise the limit (ulimit -u)",
                field="os_processes",
            )

    async def _send_fork(
        self, fork: Fork, child: Child, sockets: tuple[socket.socket, socket.socket]
    ) -> None:
        """Ask for a program. Without a zygote it is lost at once."""
        if not self.is_up:
            _lose(child)
            return
        with suppress(ConnectionError):  # it has just died, which `watch` sees next
            await anyio.wait_writable(self._socket)
            fds = [end.fileno() for end in sockets]
            socket.send_fds(self._socket, [_encode(fork)], fds)

    def send_signal(self, pid: int, signal_number: int) -> None:
        """Signal a program's process group; nothing happens if it is gone."""
        try:
            self._socket.send(_encode(SendSignal(pid, signal_number)))
        except OSError:
            return

    def find_os_pid(self, pid: int) -> int | None:
        """The OS process that a program runs as, while it does."""
        child = self._children.get(pid)
        return None if child is None else child.os_pid

    async def watch(self) -> None:
        """Read what the zygote tells; when it dies, start another one, later each time."""
        while True:
            started_at = anyio.current_time()
            await self._read()
            self._is_up = anyio.Event()
            lived_seconds = anyio.current_time() - started_at
            self._num_deaths = 1 if lived_seconds > STEADY_SECONDS else self._num_deaths + 1
            logger.error("the zygote died after %.1f s (%d)", lived_seconds, self._num_deaths)
            async with self._forking:  # nobody waits for the socket then
                self._socket.close()
            self._os_process.kill()
            self._os_process.wait()
            for child in self._children.values():
                _lose(child)
            await self._relaunch()
            self._is_up.set()

    async def _relaunch(self) -> None:
        """Start another zygote, after a while and as soon as the operating system lets us."""
        while True:
            await anyio.sleep(self._retry_seconds())
            try:
                self._socket, self._os_process = self._launch()
            except OSError as error:
                self._num_deaths += 1
                logger.error("the zygote cannot be started: %s", error)
            else:
                return

    def _retry_seconds(self) -> float:
        exponent = min(self._num_deaths, 16) - 1
        return min(MAX_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0**exponent)

    async def _read(self) -> None:
        """Note what the zygote tells until it is gone."""
        while True:
            await anyio.wait_readable(self._socket)
            try:
                datagram = self._socket.recv(MAX_DATAGRAM_BYTES)
            except ConnectionError:  # it ended with something unread
                return
            if not datagram:
                return
            self._note(_from_zygote.decode(datagram))

    def _note(self, message: Died | Forked | Refused) -> None:
        child = self._children[message.pid]
        match message:
            case Forked():
                child.os_pid = message.os_pid
            case Refused():
                child.refusal = message.reason
                child.dead.set()
            case Died():
                child.status = message.status
                child.dead.set()
        child.answered.set()

    async def wait_dead(self, pid: int) -> None:
        """Wait until a program is gone; any number of tasks may."""
        if pid in self._children:
            await self._children[pid].dead.wait()

    async def wait(self, pid: int) -> int | None:
        """Wait until a program is gone; its waitpid status, once. None: lost with its zygote."""
        await self.wait_dead(pid)
        return self._children.pop(pid).status

    def close(self) -> None:
        """Let the zygote end, and with it every program that is left."""
        self._socket.close()
        self._os_process.wait()


def open_sockets() -> tuple[tuple[socket.socket, ...], ...]:
    """A program's pairs for its calls and for its log. OSError when no descriptor is left."""
    calls = socket.socketpair()
    try:
        return calls, socket.socketpair()
    except OSError:
        for end in calls:
            end.close()
        raise


def _lose(child: Child) -> None:
    """The program's zygote is dead: so is the program, and nobody will say how it ended."""
    if child.os_pid is not None and not child.dead.is_set():
        with suppress(ProcessLookupError):
            _signal_group(child.os_pid, signal.SIGKILL)
    child.answered.set()
    child.dead.set()


class Nursery:
    """The zygote's end: what it has forked and not yet reaped."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._os_pids: dict[int, int] = {}
        self._os_pid = os.getpid()
        self._prctl = load_prctl()
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

    def _tell(self, message: Forked | Died | Refused) -> None:
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
            app_socket.close()
            log_socket.close()
            self._tell(Refused(message.pid, error.strerror or str(error)))
            return None
        if os_pid == 0:
            self._become(message.program, log_socket)
            return message.program, app_socket
        app_socket.close()
        log_socket.close()
        self._os_pids[message.pid] = os_pid
        self._tell(Forked(message.pid, os_pid))
        return None

    def _become(self, program: Program, log_socket: socket.socket) -> None:
        """Leave the zygote's life behind: descriptors, handlers, process group."""
        self._die_with_parent()
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

    def _die_with_parent(self) -> None:
        """Ask for a SIGKILL when the zygote dies, which may just have happened. prctl(2)."""
        if self._prctl is not None:
            self._prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != self._os_pid:
                os._exit(1)

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
        signal.set_wakeup_fd(-1)  # nobody reaps any more, and its other end may go at any moment
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


def load_prctl() -> Callable[[int, int], int] | None:
    """The system call prctl where there is one: on Linux."""
    if sys.platform != "linux":
        return None
    import ctypes  # here: the kernel, which imports this module too, has no need of it

    prctl: Callable[[int, int], int] = ctypes.CDLL(None).prctl
    return prctl


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
