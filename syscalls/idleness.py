"""Whether an app is idle: whether nothing but a reply to one of its calls can make it go on.

A kernel may take an idle app's OS process. What the app has begun by itself would be lost with it:
timers of its own (a timeout around a call is one) and work in threads. So its event loop keeps in
sight what is scheduled in it.
"""

import asyncio
import itertools
from collections.abc import Callable
from contextvars import Context
from typing import TypeVarTuple
from weakref import WeakValueDictionary

from anyio.to_thread import current_default_thread_limiter

Arguments = TypeVarTuple("Arguments")


class AppLoop(asyncio.SelectorEventLoop):
    """An event loop that knows of its timers."""

    def __init__(self) -> None:
        super().__init__()
        self._numbers = itertools.count()
        self._timers: WeakValueDictionary[int, asyncio.TimerHandle] = WeakValueDictionary()

    def call_at(
        self,
        when: float,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """As asyncio's; `call_later` comes here too."""
        handle = super().call_at(when, callback, *args, context=context)
        self._timers[next(self._numbers)] = handle  # gone when it has fired
        return handle

    @property
    def has_timers(self) -> bool:
        """Whether something will happen here when a time is over."""
        return any(not timer.cancelled() for timer in self._timers.values())


def is_idle() -> bool:
    """Whether the running loop has neither timers nor work in anyio's threads.

    A loop that does not know says no.
    """
    loop = asyncio.get_running_loop()
    is_waiting = isinstance(loop, AppLoop) and not loop.has_timers
    return is_waiting and current_default_thread_limiter().borrowed_tokens == 0
