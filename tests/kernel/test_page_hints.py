"""What drivers hear of processes that wait and end."""

from pathlib import Path

import pytest

from llmos.kernel.config import Config
from llmos.kernel.drivers.driver import Wait
from llmos.kernel.drivers.echo import EchoDriver
from llmos.kernel.machine import Machine
from llmos.kernel.main import boot
from llmos.kernel.models import Model
from llmos.syscalls.errors import E_TOOL

from .conftest import Attach, MakeApp, start
from .sleeping import load_sleepy, wait_asleep
from .test_launch import finish

pytestmark = pytest.mark.anyio
Heard = list[tuple[int, str, float | None]]


class Listener(EchoDriver):
    """Answers as echo does, and remembers what it was told of processes."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: Heard = []

    def hint(self, pid: int, kind: Wait, expected_idle_seconds: float | None = None) -> None:
        self.heard.append((pid, kind, expected_idle_seconds))


def listen(machine: Machine) -> Heard:
    """Have a driver among the machine's that remembers."""
    driver = Listener()
    machine.models._by_name["listener"] = Model(driver, driver.info)
    return driver.heard


async def test_a_process_that_asks_waits_for_a_person(attach: Attach, machine: Machine) -> None:
    heard = listen(machine)
    system, process = await attach()

    await system.ask("name?")

    assert heard == [(process.pid, "person", None)]


async def test_a_process_that_calls_a_tool_waits_for_as_long_as_that_took_before(
    attach: Attach, machine: Machine
) -> None:
    heard = listen(machine)
    system, process = await attach()

    with pytest.raises(E_TOOL):
        await system.tool("calculator", expression="1 / 0")
    await system.tool("calculator", expression="6 * 7")
    await system.tool("clock")

    assert [one[:2] for one in heard] == [(process.pid, "tool")] * 3
    first, second, other = (one[2] for one in heard)
    assert (first, other) == (None, None)
    assert second is not None
    assert 0 < second < 5


async def test_a_process_that_ends_is_gone(
    config: Config, make_app: MakeApp, tmp_path: Path
) -> None:
    async with boot(config) as machine:
        heard = listen(machine)
        process = await start(machine, make_app("short", "return 1"), tmp_path)
        await finish(process)

    assert heard == [(process.pid, "gone", None)]


async def test_a_process_that_gives_up_its_os_process_is_expected_when_its_time_is_over(
    make_app: MakeApp, tmp_path: Path
) -> None:
    async with boot(load_sleepy(tmp_path)) as machine:
        heard = listen(machine)
        app = make_app("sleeper", "await sys_.sleep(1000)")
        process = await start(machine, app, tmp_path)
        await wait_asleep(machine, process.pid)

    ((pid, kind, seconds),) = heard
    assert (pid, kind) == (process.pid, "person")
    assert seconds is not None
    assert 900 < seconds <= 1000
