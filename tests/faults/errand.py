"""An app that makes calls of every kind and keeps what it was told."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from llmos.syscalls.client import Context, System
from llmos.syscalls.errors import E_IN_DOUBT, E_STORAGE

BRANCHES, NUM_ROUNDS = ("a", "b"), 2
EFFECTS = ("print", "note", "message")  # calls whose text, their name, has to be kept once
IN_DOUBT = "in doubt"


async def nothing() -> None:
    """Wait for nothing."""


class Errand:
    """One life of the app. `rung` is what its tool has done, which no store can undo.

    `settled` is what no crash may change: answers whose rows are durable. An answer is when it
    says so itself, or came before a call was made whose answer does.
    """

    def __init__(self, rung: list[str]) -> None:
        self.rung = rung
        self.heard: dict[str, object] = {}
        self.settled: dict[str, object] = {}
        self.num_refused = 0
        self.wait_works: Callable[[], Awaitable[None]] = nothing

    async def run(self, system: System) -> None:
        """Make all calls, in branches side by side."""
        await system.gather(*(self._branch(system, name) for name in BRANCHES))

    async def _branch(self, system: System, branch: str) -> None:
        async def begin() -> int:
            return (await system.context()).number

        context = Context(system, await self._settle(f"{branch} context", begin))
        for number in range(NUM_ROUNDS):
            name = f"{branch}{number}"
            await self._call(f"{name} random", system.random)
            await self._call(f"{name} tool", partial(system.tool, "ring", text=f"{name} tool"))
            await self._keep(f"{name} print", system.print)
            await self._keep(f"{name} note", system.remember)
            await self._keep(f"{name} message", context.user)

    async def _keep(self, name: str, make: Callable[[str], Awaitable[object]]) -> None:
        """A call that leaves its name in the store."""
        await self._settle(name, partial(make, name))

    async def _settle(self, name: str, make: Callable[[], Awaitable[object]]) -> Any:
        """A call whose answer says that it is durable."""
        before = dict(self.heard)
        answer = await self._call(name, make)
        self.settled |= before | {name: answer}
        return answer

    async def _call(self, name: str, make: Callable[[], Awaitable[object]]) -> object:
        """A call, made again as long as the store refuses it."""
        while True:
            try:
                answer = await make()
            except E_IN_DOUBT:
                answer = IN_DOUBT
            except E_STORAGE:
                self.num_refused += 1
                await self.wait_works()
                continue
            self.heard[name] = answer
            return answer
