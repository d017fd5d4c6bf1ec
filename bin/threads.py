"""Blocking reads and writes, in threads that nobody waits for when the program ends.

A reader of a pipe that stays silent, or a writer into one that nobody reads, cannot be woken. The
threads of anyio.to_thread would keep the program from ending.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def call_in_thread(function: Callable[[], T]) -> T:
    """What `function` returns; its OSError is raised. A cancelled caller leaves it running."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def finish(result: T | None, error: OSError | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        result: T | None = None
        failure: OSError | None = None
        try:
            result = function()
        except OSError as error:
            failure = error
        with suppress(RuntimeError):  # the loop has ended, and with it whoever asked
            loop.call_soon_threadsafe(finish, result, failure)

    threading.Thread(target=work, daemon=True).start()
    return await future
