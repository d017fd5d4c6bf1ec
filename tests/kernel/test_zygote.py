"""The zygote as a real OS process: it forks, reaps, signals, and does not outlive its kernel."""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import msgspec
import pytest

from llmos.kernel.zygote import KEPT_ENVIRONMENT, MAX_DEATHS, Zygote
from llmos.syscalls.errors import E_KERNEL, E_LIMIT
from llmos.syscalls.runtime import Program
from llmos.syscalls.tasks import running

pytestmark = pytest.mark.anyio
ENVIRON = os.environ | {"LANG": "C.UTF-8", "SECRET_KEY": "hunter2", "LLMOS_HOME": "/nowhere"}
HEADER = """
import json, os, resource, signal, sys, time

def say(value):
    print(json.dumps(value), flush=True)
"""


NO_FORKS = """
import ctypes, os, resource
import anyio._backends._asyncio
from llmos.kernel import zygote
if os.getuid() == 0:
    os.setuid(65534)
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
raise SystemExit(zygote.main())
"""


LATE_DEATH = """
import os, signal, socket
from llmos.kernel.zygote import Nursery
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
ours.close()
assert Nursery(theirs).run() is None
os.kill(os.getpid(), signal.SIGCHLD)
"""


class Adopted(Zygote):
    """A zygote that was started otherwise."""

    def __init__(self, sock: socket.socket, os_process: "subprocess.Popen[bytes]") -> None:
        sock.setblocking(False)
        self._start = (sock, os_process)
        super().__init__(ENVIRON)

    def _launch(self) -> tuple[socket.socket, "subprocess.Popen[bytes]"]:
        return self._start


class Apps:
    """Starts modules by the zygote. What they print comes out of their log socket."""

    def __init__(self, zygote: Zygote, folder: Path) -> None:
        self.zygote = zygote
        self.folder = folder
        self.logs: dict[int, socket.socket] = {}
        self._call_ends: list[socket.socket] = []

    async def start(self, pid: int, code: str) -> None:
        """Run code as a program: at its import, so that no kernel has to speak to it."""
        (self.folder / f"app{pid}.py").write_text(HEADER + code)
        call_end, app_end = socket.socketpair()
        self.logs[pid], app_log_end = socket.socketpair()
        self._call_ends.append(call_end)
        call_end.sendall(WELCOME)
        program = Program(pid, "token", f"app{pid}", "main", str(self.folder), str(self.folder))
        await self.zygote.fork(program, app_end, app_log_end)

    async def hear(self, pid: int) -> object:
        """The next line that a program prints."""
        data = b""
        with anyio.fail_after(20):
            while not data.endswith(b"\n"):
                await anyio.wait_readable(self.logs[pid])
                data += self.logs[pid].recv(65_536)
        return msgspec.json.decode(data)

    async def wait(self, pid: int) -> int:
        """Wait until a program is gone; its waitpid status."""
        with anyio.fail_after(20):
            status = await self.zygote.wait(pid)
        assert status is not None, "it was lost with its zygote"
        return status

    def close(self) -> None:
        for end in (*self.logs.values(), *self._call_ends):
            end.close()


def make_welcome() -> bytes:
    from llmos.syscalls.wire import Welcome, encode_frame

    return encode_frame(Welcome(1, ()))


WELCOME = make_welcome()


@pytest.fixture
async def apps(tmp_path: Path) -> AsyncIterator[Apps]:
    zygote = Zygote(ENVIRON)
    apps = Apps(zygote, tmp_path)
    async with running() as tasks:
        tasks.start_soon(zygote.watch)
        yield apps
    zygote.close()
    apps.close()


def wait_gone(pidfd: int) -> bool:
    """Whether an OS process ends within its time."""
    gone, _, _ = select.select([pidfd], [], [], 20)
    return bool(gone)


async def test_a_program_runs_in_an_os_process_of_its_own(apps: Apps, tmp_path: Path) -> None:
    await apps.start(1, "say([os.getpid(), os.getppid(), os.getpgrp(), os.getcwd()])\nos._exit(3)")

    os_pid, parent, group, folder = msgspec.convert(await apps.hear(1), tuple[int, int, int, str])

    assert os_pid == group
    assert parent not in (os_pid, os.getpid())
    assert folder == str(tmp_path)
    assert os.waitstatus_to_exitcode(await apps.wait(1)) == 3


async def test_the_kernel_knows_the_os_process_while_it_runs(apps: Apps) -> None:
    await apps.start(1, "say(os.getpid())\ntime.sleep(1000)")

    os_pid = await apps.hear(1)

    assert apps.zygote.find_os_pid(1) == os_pid
    apps.zygote.send_signal(1, signal.SIGKILL)
    await apps.wait(1)
    assert apps.zygote.find_os_pid(1) is None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_signal_ends_a_program_and_its_status_says_so(
    apps: Apps, number: signal.Signals
) -> None:
    await apps.start(1, "say('up')\ntime.sleep(1000)")
    await apps.hear(1)

    apps.zygote.send_signal(1, number)

    assert os.waitstatus_to_exitcode(await apps.wait(1)) == -number


async def test_a_signal_reaches_the_whole_group(apps: Apps) -> None:
    await apps.start(1, "child = os.fork()\nif child: say(child)\ntime.sleep(1000)")
    child = os.pidfd_open(msgspec.convert(await apps.hear(1), int))

    apps.zygote.send_signal(1, signal.SIGKILL)

    assert wait_gone(child)
    os.close(child)


async def test_what_a_program_leaves_behind_in_its_group_is_killed(apps: Apps) -> None:
    await apps.start(
        1, "child = os.fork()\nif child:\n    say(child)\n    os._exit(0)\ntime.sleep(1000)"
    )
    child = os.pidfd_open(msgspec.convert(await apps.hear(1), int))

    await apps.wait(1)

    assert wait_gone(child)
    os.close(child)


async def test_a_signal_to_a_program_that_is_gone_does_nothing(apps: Apps) -> None:
    await apps.start(1, "os._exit(0)")
    await apps.wait(1)

    apps.zygote.send_signal(1, signal.SIGKILL)
    apps.zygote.send_signal(99, signal.SIGKILL)

    await apps.start(2, "os._exit(4)")
    assert os.waitstatus_to_exitcode(await apps.wait(2)) == 4


async def test_programs_are_forked_side_by_side(apps: Apps) -> None:
    async with anyio.create_task_group() as tasks:
        for pid in range(1, 9):
            tasks.start_soon(apps.start, pid, f"os._exit({pid})")

    statuses = [os.waitstatus_to_exitcode(await apps.wait(pid)) for pid in range(1, 9)]
    assert statuses == list(range(1, 9))


async def test_a_programs_environment_is_an_allow_list(apps: Apps) -> None:
    await apps.start(1, "say(dict(os.environ))")

    environ = msgspec.convert(await apps.hear(1), dict[str, str])

    assert environ["LANG"] == "C.UTF-8"
    assert set(environ) <= {*KEPT_ENVIRONMENT, "PYTHONPATH"}


async def test_no_descriptor_of_the_kernel_or_of_another_program_leaks_into_one(
    apps: Apps, tmp_path: Path
) -> None:
    with (tmp_path / "secret").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        await apps.start(1, "say('up')\ntime.sleep(1000)")
        await apps.hear(1)
        await apps.start(
            2,
            "names = [os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd')"
            " if os.path.exists(f'/proc/self/fd/{fd}') or os.path.islink(f'/proc/self/fd/{fd}')]\n"
            "say(sorted(name.partition(':')[0] for name in names))",
        )

        names = msgspec.convert(await apps.hear(2), list[str])

    assert str(tmp_path / "secret") not in names
    # stdout, stderr, the socket of its calls; the pair that wakes its event loop
    assert names.count("socket") == 5
    assert set(names) <= {"/dev/null", "socket", "anon_inode"}


async def test_a_program_leaves_no_core_behind_and_has_no_wakeup_of_the_zygotes(
    apps: Apps,
) -> None:
    await apps.start(
        1,
        "say([resource.getrlimit(resource.RLIMIT_CORE), signal.getsignal(signal.SIGCHLD),"
        " sys.stdin.read()])",
    )

    assert await apps.hear(1) == [[0, 0], signal.SIG_DFL, ""]


async def test_programs_end_with_their_kernel(apps: Apps) -> None:
    await apps.start(1, "say(os.getpid())\ntime.sleep(1000)")
    program = os.pidfd_open(msgspec.convert(await apps.hear(1), int))

    apps.zygote.close()

    assert wait_gone(program)
    os.close(program)


def test_a_zygote_whose_kernel_has_gone_says_nothing_of_programs_that_die_then() -> None:
    command = [sys.executable, "-c", LATE_DEATH]

    said = subprocess.run(command, capture_output=True, text=True, check=True)

    assert said.stderr == ""


async def test_programs_are_lost_with_their_zygote_and_the_next_one_starts_others(
    apps: Apps,
) -> None:
    await apps.start(1, "child = os.fork()\nif child: say([child, os.getpid()])\ntime.sleep(1000)")
    programs = [os.pidfd_open(pid) for pid in msgspec.convert(await apps.hear(1), list[int])]

    os.kill(apps.zygote.os_pid, signal.SIGSTOP)
    apps.zygote.send_signal(1, signal.SIGTERM)  # stays unread: the socket ends with an error
    os.kill(apps.zygote.os_pid, signal.SIGKILL)

    with anyio.fail_after(20):
        assert await apps.zygote.wait(1) is None
        await apps.zygote.wait_up()
    assert all(map(wait_gone, programs))
    await apps.start(2, "os._exit(3)")
    assert os.waitstatus_to_exitcode(await apps.wait(2)) == 3
    for program in programs:
        os.close(program)


async def test_programs_end_when_kernel_and_zygote_are_killed_at_once(tmp_path: Path) -> None:
    """Nobody is left to end them: the operating system does."""
    zygote = Zygote(ENVIRON)
    apps = Apps(zygote, tmp_path)
    async with running() as tasks:
        tasks.start_soon(zygote.watch)
        await apps.start(1, "say(os.getpid())\nwhile True: pass")
        program = os.pidfd_open(msgspec.convert(await apps.hear(1), int))
    os.kill(zygote.os_pid, signal.SIGKILL)

    assert wait_gone(program)
    os.close(program)
    zygote.close()
    apps.close()


async def test_a_zygote_that_dies_again_and_again_is_an_error_until_it_stays(apps: Apps) -> None:
    for _ in range(MAX_DEATHS):
        await apps.zygote.wait_up()
        os.kill(apps.zygote.os_pid, signal.SIGKILL)
        with anyio.fail_after(20):
            await wait_down(apps.zygote)

    with pytest.raises(E_KERNEL, match=f"the zygote died {MAX_DEATHS} times in a row") as caught:
        await apps.zygote.wait_up()
    assert caught.value.retry_after_seconds is not None
    with anyio.fail_after(20):
        await wait_works(apps.zygote)
    await apps.start(1, "os._exit(3)")
    assert os.waitstatus_to_exitcode(await apps.wait(1)) == 3


async def wait_down(zygote: Zygote) -> None:
    """Wait until it is noticed that the zygote is dead."""
    os_pid = zygote.os_pid
    while zygote.os_pid == os_pid and zygote.is_up:  # noqa: ASYNC110 - nobody tells
        await anyio.sleep(0.01)


async def wait_works(zygote: Zygote) -> None:
    """Wait until another zygote runs after all."""
    while not zygote.is_up:  # noqa: ASYNC110 - nobody tells
        await anyio.sleep(0.05)


@contextmanager
def open_forkless() -> Iterator[Adopted]:
    """A zygote that may not fork. Root has no such limit, so it gives root up."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environ = ENVIRON | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", NO_FORKS, str(theirs.fileno())]
    with theirs:
        os_process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environ)
    zygote = Adopted(ours, os_process)
    yield zygote
    zygote.close()


async def test_a_fork_that_fails_is_a_limit_and_the_zygote_serves_on(tmp_path: Path) -> None:
    with open_forkless() as forkless:
        apps = Apps(forkless, tmp_path)
        async with running() as tasks:
            tasks.start_soon(forkless.watch)
            for pid in (1, 2):
                with pytest.raises(E_LIMIT, match="starts no process more: Resource temporarily"):
                    await apps.start(pid, "say('never')")
        apps.close()
