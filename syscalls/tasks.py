"""Task groups whose exceptions come out as they are, and not in an exception group."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup


@asynccontextmanager
async def running(tasks: TaskGroup | None = None) -> AsyncIterator[TaskGroup]:
    """A task group that is cancelled when the body ends.

    Unlike `async with create_task_group()`, an exception of the body comes out bare and not in an
    exception group, so that callers can catch it by its type.
    """
    tasks = tasks or anyio.create_task_group()
    await tasks.__aenter__()
    try:
        yield tasks
    finally:
        tasks.cancel_scope.cancel()
        await tasks.__aexit__(None, None, None)


@asynccontextmanager
async def side_by_side() -> AsyncIterator[TaskGroup]:
    """A task group that is waited for. The first exception ends the other tasks, and comes out."""
    try:
        async with anyio.create_task_group() as tasks:
            yield tasks
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
