"""What tests of processes that sleep share: a kernel that evicts soon, and looks at the record."""

from pathlib import Path

import anyio

from llmos.kernel.config import Config, load_config
from llmos.kernel.machine import Machine
from llmos.kernel.process import Process
from llmos.memory import processes
from llmos.memory.processes import ProcessRecord

EVICT_AFTER_SECONDS = 0.1
DEADLINE_SECONDS = 20


def load_sleepy(tmp_path: Path, evict_after_seconds: float = EVICT_AFTER_SECONDS) -> Config:
    """A kernel's configuration with which processes sleep soon, or with 0 never."""
    return load_config(
        {
            "LLMOS_HOME": str(tmp_path / "home"),
            "LLMOS_MODEL": "echo",
            "LLMOS_EVICT_AFTER_SECONDS": str(evict_after_seconds),
        }
    )


async def read_record(machine: Machine, pid: int) -> ProcessRecord:
    record = await processes.get(machine.db, pid)
    assert record is not None
    return record


async def wait_asleep(machine: Machine, *pids: int) -> None:
    """Wait until these processes have given up their OS processes."""
    with anyio.fail_after(DEADLINE_SECONDS):
        for pid in pids:
            while machine.table.get(pid) is not None:
                await machine.table.wait_changed()
            assert (await read_record(machine, pid)).state == "EVICTED"


async def wait_record_ended(machine: Machine, pid: int) -> ProcessRecord:
    """Wait until a process has ended; its record."""
    with anyio.fail_after(DEADLINE_SECONDS):
        while (record := await read_record(machine, pid)).ended_at is None:
            with anyio.move_on_after(0.05):  # it may sleep, and live again before it ends
                await machine.table.wait_changed()
    return record


async def finish(process: Process) -> tuple[str, str]:
    """Wait for the end, also of one that sleeps meanwhile: status and result."""
    with anyio.fail_after(DEADLINE_SECONDS):
        await process.ended.wait()
    assert process.exit is not None
    return process.exit.status, process.exit.result
