"""Boot: one kernel per state directory, everything up, and everything given back."""

import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from llmos.kernel.config import Config
from llmos.kernel.listing import list_processes
from llmos.kernel.main import boot, hold_state, log_to_file
from llmos.kernel.protocol import Output
from llmos.memory.db import Database
from llmos.syscalls.errors import E_STORAGE

from .conftest import start

pytestmark = pytest.mark.anyio
SOURCE = Path(__file__).parents[2] / "src"
APP = """
async def main(sys):
    await sys.print("up")
    await sys.sleep(1000)
"""
MANIFEST = '[app]\nname = "sleeper"\nversion = "1"\nmain = "sleeper:main"\n'
ALONE = """
import os, sys, threading, anyio
from llmos.kernel.config import load_config
from llmos.kernel.main import boot

async def main():
    async with boot(load_config(os.environ)) as machine:
        await machine.models.load("echo")

anyio.run(main)
writers = [thread for thread in threading.enumerate() if thread.name == "memory-writer"]
try:
    os.waitpid(-1, os.WNOHANG)
    children = "some"
except ChildProcessError:
    children = "none"
print(children, len(writers), *sys.modules)
"""


def boot_alone(config: Config) -> list[str]:
    """Boot in a Python of its own; whether children are left, how many writers, and modules."""
    env = os.environ | {
        "LLMOS_HOME": str(config.home),
        "LLMOS_MODEL": "echo",
        "PYTHONPATH": str(SOURCE),
    }
    return subprocess.check_output([sys.executable, "-c", ALONE], env=env, text=True).split()


async def run_sleeper(config: Config, folder: Path) -> int:
    """Boot, start an app that sleeps, and stop while it does; its pid."""
    (folder / "sleeper").mkdir()
    (folder / "sleeper" / "app.toml").write_text(MANIFEST)
    (folder / "sleeper" / "sleeper.py").write_text(APP)
    async with boot(config) as machine:
        process = await start(machine, "./sleeper", folder)
        with anyio.fail_after(20):
            assert await process.terminal.next_event() == Output(process.pid, "up\n")
    return process.pid


def test_only_one_kernel_holds_a_state_directory(config: Config) -> None:
    with hold_state(config):  # the second one is refused
        with pytest.raises(E_STORAGE, match=r"another kernel runs on .* llmos stop"):
            with hold_state(config):
                pass

    with hold_state(config):
        assert config.lock.exists()


async def test_a_refused_kernel_touches_nothing_of_the_one_that_runs(config: Config) -> None:
    async with boot(config) as machine:
        with pytest.raises(E_STORAGE):
            async with boot(config):
                pass

        assert config.socket.exists()
        assert await list_processes(machine, 1)


async def test_a_kernel_listens_on_its_socket_while_it_runs(config: Config) -> None:
    async with boot(config):
        assert stat.S_ISSOCK(config.socket.stat().st_mode)

    assert not config.socket.exists()


async def test_a_socket_that_a_dead_kernel_left_is_replaced(config: Config) -> None:
    config.socket.write_text("left behind")

    async with boot(config):
        assert stat.S_ISSOCK(config.socket.stat().st_mode)


async def test_a_kernel_that_has_stopped_gives_everything_back(config: Config) -> None:
    async with boot(config):
        pass

    with hold_state(config):
        db = Database.open(config.database)
        await db.aclose()
    async with boot(config) as machine:
        assert (await list_processes(machine, 1)).processes == ()


async def test_a_body_that_fails_gives_everything_back_too(config: Config) -> None:
    with pytest.raises(ZeroDivisionError):
        async with boot(config):
            raise ZeroDivisionError

    assert not config.socket.exists()
    with hold_state(config):
        pass


async def test_a_store_that_cannot_be_opened_is_named_and_nothing_is_left(config: Config) -> None:
    config.database.write_bytes(b"no database" * 1000)

    with pytest.raises(E_STORAGE, match="cannot open"):
        async with boot(config):
            pass

    with hold_state(config):
        assert not config.socket.exists()


async def test_a_process_that_lives_when_its_kernel_stops_can_go_on(
    config: Config, tmp_path: Path
) -> None:
    pid = await run_sleeper(config, tmp_path)

    async with boot(config) as machine:
        (info,) = (await list_processes(machine, 10)).processes

    assert (info.pid, info.app, info.state, info.exit_status) == (pid, "sleeper", "EVICTED", None)


def test_what_the_kernel_says_goes_to_its_log(config: Config) -> None:
    logger = logging.getLogger("llmos.kernel.test")

    with log_to_file(config):
        logger.warning("the disk is %s", "full")
    logger.warning("nobody hears this")

    log = (config.logs / "kernel.log").read_text()
    assert "WARNING llmos.kernel.test: the disk is full" in log
    assert "nobody" not in log


def test_the_log_goes_on_after_a_restart(config: Config) -> None:
    for word in ("first", "second"):
        with log_to_file(config):
            logging.getLogger("llmos").warning(word)

    assert len((config.logs / "kernel.log").read_text().splitlines()) == 2


def test_a_boot_needs_no_torch_and_leaves_no_child_and_no_writer(config: Config) -> None:
    children, num_writers, *modules = boot_alone(config)

    assert (children, num_writers) == ("none", "0")
    assert "llmos.kernel.main" in modules
    assert not {"torch", "transformers", "tokenizers", "numpy"} & set(modules)
