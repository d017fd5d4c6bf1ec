"""A branch: work that runs on beside whoever started it, and is awaited later, or cancelled."""

import asyncio
from collections.abc import Coroutine, Generator
from contextvars import Context
from typing import Any, Generic, TypeVar, cast

import anyio

from .errors import E_ARG, E_CANCELLED

T = TypeVar("T")


class Branch(Generic[T]):
    """Work in a strand of its own. `await branch` is its result, as often as it is asked for.

    The await raises what the branch raised, or E_CANCELLED when it was cancelled. Whoever stops
    waiting does not stop the branch. An error that nobody awaits is reported by asyncio on stderr.
    """

    def __init__(
        self,
        strand: str,
        work: Coroutine[Any, Any, T],
        context: Context,
        alive: "set[Branch[Any]]",
    ) -> None:
        self.strand = strand
        self._scope = anyio.CancelScope()
        self._alive = alive  # holds a branch while it runs: nobody else has to
        alive.add(self)
        task = asyncio.get_running_loop().create_task(self._run(work), context=context)
        self._task: asyncio.Task[T | None] = task

    async def _run(self, work: Coroutine[Any, Any, T]) -> T | None:
        try:
            with self._scope:
                return await work
        finally:
            self._alive.discard(self)
        return None  # cancelled, which the scope knows

    def __await__(self) -> Generator[Any, Any, T]:
        return self._wait().__await__()

    async def _wait(self) -> T:
        if asyncio.current_task() is self._task:
            raise E_ARG(f"branch {self.strand} awaits itself", field="branch")
        await self.wait_ended()
        if self._scope.cancelled_caught:
            raise E_CANCELLED(f"branch {self.strand} was cancelled")
        return cast("T", self._task.result())

    async def wait_ended(self) -> None:
        """Wait until the branch has ended, however it did."""
        await asyncio.wait((self._task,))

    def cancel(self) -> None:
        """End the branch at its next await; its `finally` blocks run. Nothing if it has ended."""
        self._scope.cancel()
