"""Signals between processes, also to those that no kernel runs."""

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from llmos.kernel.config import Config
from llmos.kernel.machine import Machine
from llmos.kernel.main import boot
from llmos.memory import processes
from llmos.memory.db import Connection

from .conftest import MakeApp, start

pytestmark = pytest.mark.anyio


@pytest.fixture
async def machine(config: Config) -> AsyncIterator[Machine]:
    async with boot(config) as machine:
        yield machine


async def evict(machine: Machine, tenant: str) -> int:
    """A process as a dead kernel leaves it; its pid."""

    def create(connection: Connection) -> int:
        return processes.create_row(
            connection, app="ask", spec=b"", tenant=tenant, model="echo", state="RUNNING",
            parent=None, created_at=0.0,
        )  # fmt: skip

    return await machine.db.write(create)


async def signal_from_an_app(
    machine: Machine, make_app: MakeApp, tmp_path: Path, pid: int
) -> tuple[str, str]:
    """An app signals the process; the app's tenant, and what it was told."""
    app = make_app("sender", f"return await sys_.signal({pid})")
    process = await start(machine, app, tmp_path)
    with anyio.fail_after(20):
        await process.ended.wait()
    assert process.exit is not None
    return process.tenant, process.exit.result


async def test_a_signal_to_nobody_is_not_delivered(
    machine: Machine, make_app: MakeApp, tmp_path: Path
) -> None:
    _, told = await signal_from_an_app(machine, make_app, tmp_path, 99)

    assert told == "false"


@pytest.mark.parametrize(("tenant", "told"), [("local", "true"), ("other", "false")])
async def test_an_evicted_process_is_ended_by_its_own_tenant_alone(
    machine: Machine, make_app: MakeApp, tmp_path: Path, tenant: str, told: str
) -> None:
    pid = await evict(machine, tenant)

    sender, answer = await signal_from_an_app(machine, make_app, tmp_path, pid)

    assert (sender, answer) == ("local", told)
    record = await processes.get(machine.db, pid)
    assert record is not None
    assert (record.ended_at is not None) == (told == "true")
