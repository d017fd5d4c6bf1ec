"""shell, on a kernel in memory."""

import pytest

from llmos.apps.shell.line import Command, parse_line
from llmos.apps.shell.main import main
from llmos.syscalls.errors import E_ARG
from llmos.syscalls.process import (
    ExitStatus,
    PidReply,
    ProcessExit,
    ProcessInfo,
    ProcessList,
    Signal,
    Signalled,
    Spawn,
    State,
    Wait,
)

from .conftest import KernelInMemory

pytestmark = pytest.mark.anyio


def info(pid: int, *, code: int | None = None) -> ProcessInfo:
    status: ExitStatus | None = None if code is None else "exited"
    state: State = "WAITING" if code is None else "ZOMBIE"
    return ProcessInfo(pid, 1, "ask", ("hi",), state, "echo", 0.0, None, status, code, 0, 0)


@pytest.fixture
def kernel() -> KernelInMemory:
    kernel = KernelInMemory()
    kernel.answers["spawn"] = lambda call: PidReply(7)
    kernel.answers["wait"] = lambda call: ProcessExit(call.pid, "exited", 0)
    kernel.answers["ps"] = lambda call: ProcessList((info(7),))
    kernel.answers["signal"] = lambda call: Signalled(True)
    return kernel


async def type_lines(kernel: KernelInMemory, *lines: str) -> str:
    kernel.lines = list(lines)
    async with kernel.system() as sys:
        await main(sys)
    return kernel.printed


@pytest.mark.parametrize("line", ["ask 'a b' c", "run ask 'a b' c"])
async def test_an_app_runs_in_front_until_it_ends(kernel: KernelInMemory, line: str) -> None:
    await type_lines(kernel, line)

    assert kernel.named(Spawn) == [Spawn("ask", ("a b", "c"))]
    assert kernel.named(Wait) == [Wait(7, foreground=True)]


async def test_a_failed_app_is_told_with_its_exit_code(kernel: KernelInMemory) -> None:
    kernel.answers["wait"] = lambda call: ProcessExit(7, "failed", 5)

    assert await type_lines(kernel, "ask hi") == "ask: exit code 5\n"


async def test_what_an_app_returns_is_printed(kernel: KernelInMemory) -> None:
    kernel.answers["wait"] = lambda call: ProcessExit(7, "exited", 0, "42")

    assert await type_lines(kernel, "answer") == "42\n"


async def test_a_background_job_is_listed_and_its_end_told(kernel: KernelInMemory) -> None:
    states = [info(7), info(7, code=0)]
    kernel.answers["ps"] = lambda call: ProcessList((states.pop(0),))

    printed = await type_lines(kernel, "ask hi &", "jobs")

    assert kernel.named(Spawn) == [Spawn("ask", ("hi",))]
    assert printed == "[1] 7\n[1] 7 ask hi\n[1] done  ask hi\n"


@pytest.mark.parametrize("line", ["fg", "fg %1", "fg 7"])
async def test_a_job_comes_to_the_front(kernel: KernelInMemory, line: str) -> None:
    printed = await type_lines(kernel, "chat &", line, "jobs")

    assert kernel.named(Wait) == [Wait(7, foreground=True)]
    assert printed == "[1] 7\nchat\n[1] done  chat\n"


async def test_leaving_with_jobs_warns_once(kernel: KernelInMemory) -> None:
    printed = await type_lines(kernel, "ask hi &", "exit", "exit", "help")

    assert printed == "[1] 7\n1 job(s) would end: `wait` for them, or exit again\n"


async def test_wait_waits_for_the_jobs(kernel: KernelInMemory) -> None:
    printed = await type_lines(kernel, "ask hi &", "wait", "jobs")

    assert printed == "[1] 7\n[1] done  ask hi\n"


@pytest.mark.parametrize(
    ("line", "signal"),
    [
        ("kill %1", Signal(7)),
        ("kill 9", Signal(9)),
        ("kill -s sigkill 9", Signal(9, "KILL")),
    ],
)
async def test_kill_takes_pids_and_jobs(kernel: KernelInMemory, line: str, signal: Signal) -> None:
    await type_lines(kernel, "ask hi &", line, "wait")

    assert kernel.named(Signal) == [signal]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("kill", "usage: kill"),
        ("kill -s", "usage: kill"),
        ("kill -s HUP 1", "usage: kill"),
        ("kill %3", "there is no job %3"),
        ("fg", "there is no job"),
        ("fg %3", "there is no job %3"),
        ("fg 9", "process 9 is no job of this shell"),
        ("kill x", "x is neither a pid nor %JOB"),
        ("run", "usage: run"),
        ("run &", "usage: run"),
        ("ask 'hi", "a quote has no end"),
        ("ask hi | cat", "| has no meaning here"),
        ("&", "& follows a command"),
    ],
)
async def test_a_mistake_is_one_line_and_the_shell_goes_on(
    kernel: KernelInMemory, line: str, said: str
) -> None:
    printed = await type_lines(kernel, line, "jobs", "ask hi")

    assert printed.startswith(said)
    assert printed.count("\n") == 1
    assert len(kernel.named(Spawn)) == 1


async def test_an_unknown_word_near_a_command_says_so(kernel: KernelInMemory) -> None:
    def refuse(call: Spawn) -> PidReply:
        raise E_ARG(f"no app is called {call.app!r}", field="app")

    kernel.answers["spawn"] = refuse

    printed = await type_lines(kernel, "jobz", "nothing")

    assert printed == ("there is no command jobz; did you mean jobs?\nno app is called 'nothing'\n")


async def test_ps_shows_what_lives(kernel: KernelInMemory) -> None:
    kernel.answers["ps"] = lambda call: ProcessList((info(3, code=0), info(7)))

    assert await type_lines(kernel, "ps") == "     7 WAITING  ask hi\n"


async def test_killing_what_has_ended_says_so(kernel: KernelInMemory) -> None:
    kernel.answers["signal"] = lambda call: Signalled(False)

    assert await type_lines(kernel, "kill 9") == "process 9 is not running\n"


def test_words_are_split_as_in_a_unix_shell() -> None:
    assert parse_line("a 'b c' \"d e\" f\\ g #h") == Command(
        ["a", "b c", "d e", "f g", "#h"], False
    )
    assert parse_line("ask hi&") == Command(["ask", "hi"], True)
    assert parse_line("  ") == Command([], False)
