"""Processes live and die as OS processes, and the kernel tells the truth about it."""

import resource
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from llmos.kernel.config import Config
from llmos.kernel.launch import MAX_PROCESSES, Launcher
from llmos.kernel.listing import list_processes
from llmos.kernel.machine import Birth, Machine
from llmos.kernel.main import boot
from llmos.kernel.process import Process
from llmos.kernel.protocol import Asked, Logged, Output, Withdrawn
from llmos.kernel.terminal import Terminal
from llmos.memory.journal import read_output
from llmos.syscalls.errors import E_ARG, E_LIMIT, E_PERM, E_STORAGE
from llmos.syscalls.runtime import EXIT_CODES
from llmos.syscalls.tasks import running

from .conftest import MakeApp, make_process, start
from .test_zygote import open_forkless

pytestmark = pytest.mark.anyio


@pytest.fixture
async def machine(config: Config) -> AsyncIterator[Machine]:
    async with boot(config) as machine:
        yield machine


async def finish(process: Process) -> tuple[str, int, str]:
    """Wait for the end: status, code and result."""
    with anyio.fail_after(20):
        await process.ended.wait()
    assert process.exit is not None
    return process.exit.status, process.exit.code, process.exit.result


async def test_an_app_runs_and_its_result_is_kept(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    app = make_app("adder", "return {'sum': sum(map(int, words))}")

    process = await start(machine, app, tmp_path, "1", "2")

    assert await finish(process) == ("exited", 0, '{"sum":3}')
    (info,) = (await list_processes(machine, 10)).processes
    assert (info.state, info.exit_code, info.app) == ("ZOMBIE", 0, "adder")


async def test_what_an_app_prints_reaches_its_terminal_and_the_store(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    process = await start(machine, make_app("talker", "await sys_.print('hello')"), tmp_path)

    await finish(process)

    event = await process.terminal.next_event()
    assert event == Output(process.pid, "hello\n")
    assert await read_output(machine.db, process.pid) == "hello\n"


async def test_what_an_app_writes_past_the_syscalls_reaches_the_person(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    body = "print('to stdout', flush=True)\nprint('to stderr', file=sys.stderr)"
    process = await start(machine, make_app("printer", body), tmp_path)

    await finish(process)

    text = ""
    while text.count("\n") < 2:
        event = await process.terminal.next_event()
        assert isinstance(event, Logged)
        text += event.text
    assert text == "to stdout\nto stderr\n"
    assert await read_output(machine.db, process.pid) == ""


async def test_a_crash_says_why_and_leaves_the_kernel_whole(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    process = await start(machine, make_app("crasher", "raise RuntimeError('boom')"), tmp_path)

    status = await finish(process)

    assert status == ("failed", 1, "")
    assert process.error is not None
    assert "RuntimeError: boom" in process.error.message
    assert (await finish(await start(machine, make_app("next", "return 'ok'"), tmp_path)))[
        2
    ] == "ok"


async def test_tokens_of_a_process_that_has_ended_are_not_kept(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    body = """
    await sys_.generate("!slow 1 " + "word " * 1000, on_text=lambda _: os.kill(os.getpid(), 9))
    """
    process = await start(machine, make_app("suicide", body), tmp_path)

    await finish(process)

    num_kept = await machine.db.read(
        lambda connection: connection.exec_driver_sql("SELECT count(*) FROM chunk").scalar_one()
    )
    assert num_kept == 0


async def test_an_app_that_kills_itself_is_a_failure(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    process = await start(machine, make_app("suicide", "os.kill(os.getpid(), 9)"), tmp_path)

    assert (await finish(process))[:2] == ("failed", 1)


async def test_an_app_without_main_is_a_usage_error(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    app = make_app("nomain", "pass")
    (tmp_path / "nomain" / "code.py").write_text("x = 1\n")

    process = await start(machine, app, tmp_path)

    assert (await finish(process))[:2] == ("failed", 2)


async def test_wrong_arguments_are_a_usage_error_with_the_usage(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    app = make_app("picky", "pass")
    (tmp_path / "picky" / "code.py").write_text("async def main(sys, count: int): ...\n")

    process = await start(machine, app, tmp_path, "many")

    assert (await finish(process))[:2] == ("failed", 2)
    assert process.error is not None
    assert "usage: COUNT" in process.error.message


async def test_term_lets_an_app_clean_up(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    body = """
    try:
        await sys_.sleep(1000)
    finally:
        open('cleaned', 'w').close()
    """
    process = await start(machine, make_app("sleeper", body), tmp_path)
    await wait_state(process, "WAITING")

    machine.launcher.signal(process, "TERM")

    assert await finish(process) == ("killed", 7, "")
    assert (tmp_path / "cleaned").exists()


async def test_kill_ends_an_app_that_does_not_listen(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    body = "await sys_.print('x')\nwhile True: time.sleep(1)"
    process = await start(machine, make_app("deaf", body), tmp_path)
    await wait_output(machine, process)

    machine.launcher.signal(process, "KILL")

    assert await finish(process) == ("killed", 7, "")


async def test_a_stopped_process_makes_no_progress_until_it_is_continued(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    body = "answer = await sys_.generate('!slow 20 a b c d e f')\nreturn answer.text"
    process = await start(machine, make_app("worker", body), tmp_path)
    await wait_state(process, "RUNNING")

    machine.launcher.signal(process, "STOP")
    assert process.info().state == "STOPPED"
    with anyio.move_on_after(0.3):
        await process.ended.wait()
    assert process.exit is None
    machine.launcher.signal(process, "CONT")

    assert (await finish(process))[2] == "a b c d e f"


async def test_a_parent_waits_for_its_child(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    child = make_app("child", "return 'from the child'")
    body = f"""
    pid = await sys_.spawn({child!r})
    ended = await sys_.wait(pid)
    return ended.result
    """

    process = await start(machine, make_app("parent", body), tmp_path)

    assert (await finish(process))[2] == "from the child"


async def test_what_a_killed_child_asked_leaves_its_parents_terminal(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    child = make_app("child", "await sys_.ask('name? ')")
    body = f"await sys_.wait(await sys_.spawn({child!r}), foreground=True)"
    parent = await start(machine, make_app("parent", body), tmp_path)
    asked = await parent.terminal.next_event()
    assert isinstance(asked, Asked)
    killed = machine.table.get(asked.pid)
    assert killed is not None

    machine.launcher.signal(killed, "TERM")

    with anyio.fail_after(20):
        assert await parent.terminal.next_event() == Withdrawn(asked.ask)


async def test_children_end_with_their_parent(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    child = make_app("child", "await sys_.sleep(1000)")
    parent = await start(machine, make_app("parent", f"await sys_.spawn({child!r})"), tmp_path)

    await finish(parent)

    with anyio.fail_after(20):
        await machine.wait_idle()


async def test_two_waits_at_once_for_a_child_that_was_left_behind_both_get_its_end(
    config: Config, make_app: MakeApp, tmp_path: Path
) -> None:
    child = make_app("child", "await sys_.sleep(0.3)\nreturn 'done'")
    body = f"""
    pid = await sys_.spawn({child!r})
    await sys_.print("up")
    both = await sys_.gather(sys_.wait(pid), sys_.wait(pid))
    return [ended.result for ended in both]
    """
    app = make_app("parent", body)
    async with boot(config) as first:
        parent = await start(first, app, tmp_path)
        await wait_output(first, parent)

    async with boot(config) as second:
        again = await second.launcher.resume(parent.pid, Terminal())

        assert await finish(again) == ("exited", 0, '["done","done"]')


async def test_only_so_many_processes_live(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    app = make_app("quick", "return 'ok'")
    others = [await make_process(machine, tmp_path) for _ in range(MAX_PROCESSES)]

    with pytest.raises(E_LIMIT, match=f"{MAX_PROCESSES} processes live, which is the limit") as no:
        await start(machine, app, tmp_path)
    machine.table.remove(others[0])

    assert no.value.field == "processes"
    assert (await finish(await start(machine, app, tmp_path)))[2] == "ok"
    for other in others[1:]:
        machine.table.remove(other)


async def test_what_is_about_to_live_counts_until_it_is_given_up(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    app = make_app("quick", "return 'ok'")

    def prepare() -> Birth:
        return machine.launcher.prepare(
            app, (), workspace=str(tmp_path), readable=(), model=None, parent=None
        )

    births = [prepare() for _ in range(MAX_PROCESSES)]
    with pytest.raises(E_LIMIT):
        prepare()
    births.pop()

    assert prepare()


async def test_a_kernel_without_descriptors_refuses_an_app_and_runs_on(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    app = make_app("quick", "return 'ok'")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    birth = machine.launcher.prepare(
        app, (), workspace=str(tmp_path), readable=(), model=None, parent=None
    )
    pid = await machine.db.write(lambda connection: machine.launcher.record(connection, birth))

    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        process = machine.launcher.start(pid, birth, Terminal())
        status = (await finish(process))[:2]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    assert status == ("failed", 5)
    assert process.error is not None
    assert "no sockets for the app" in process.error.message
    assert (await finish(await start(machine, app, tmp_path)))[2] == "ok"


async def test_an_app_that_the_operating_system_has_no_room_for_is_a_limit(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    app = make_app("quick", "return 'ok'")
    working = machine.launcher
    with open_forkless() as forkless:
        machine.launcher = Launcher(machine, forkless)
        async with running() as tasks:
            tasks.start_soon(forkless.watch)
            process = await start(machine, app, tmp_path)

            assert (await finish(process))[:2] == ("failed", 5)
    assert process.error is not None
    assert process.error.code == "E_LIMIT"
    machine.launcher = working
    assert (await finish(await start(machine, app, tmp_path)))[2] == "ok"


async def test_unknown_apps_and_folders_are_errors_before_anything_exists(
    machine: Machine, tmp_path: Path
) -> None:
    with pytest.raises(E_ARG, match="no app is called"):
        await start(machine, "sumarize", tmp_path)
    with pytest.raises(E_ARG, match="no folder"):
        await start(machine, "ask", tmp_path / "nowhere")
    assert (await list_processes(machine, 10)).processes == ()


async def test_a_second_kernel_on_the_same_state_is_refused(
    machine: Machine, config: Config
) -> None:
    with pytest.raises(E_STORAGE, match="another kernel runs"):
        async with boot(config):
            pass


async def test_a_child_cannot_do_more_than_its_parent(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    child = make_app("child", "return await sys_.ps()")
    parent = make_app("parent", f"return (await sys_.wait(await sys_.spawn({child!r}))).code")
    manifest = tmp_path / "parent" / "app.toml"
    manifest.write_text(manifest.read_text().replace("processes = true", ""))

    process = await start(machine, parent, tmp_path)

    assert await finish(process) == ("exited", 0, str(EXIT_CODES[E_PERM.code]))


async def wait_state(process: Process, state: str) -> None:
    """Wait until `ps` would show this state."""
    with anyio.fail_after(20):
        while process.info().state != state:
            await anyio.lowlevel.checkpoint()


async def wait_output(machine: Machine, process: Process) -> None:
    """Wait until the process has written something."""
    with anyio.fail_after(20):
        await process.terminal.next_event()
