"""Background tasks that end with a body, and leave what the body raises as it is."""

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
