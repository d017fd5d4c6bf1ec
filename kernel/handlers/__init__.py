"""One sys_ function per row of the syscall table, found by its name."""

from collections.abc import Awaitable, Callable
from typing import Any

from . import files, generation, mail, measuring, memory, people, processes, tools, values
from .trap import Effect, Send, Trap

Handler = Callable[[Trap, Any], Awaitable[Any]]
HANDLERS: dict[str, Handler] = {
    name.removeprefix("sys_"): handler
    for group in (files, generation, mail, measuring, memory, people, processes, tools, values)
    for name, handler in vars(group).items()
    if name.startswith("sys_")
}

__all__ = ["HANDLERS", "Effect", "Handler", "Send", "Trap"]
