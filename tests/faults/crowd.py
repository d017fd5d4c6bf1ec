"""The players of a kernel and the persons who look at them: what suites R1 and R5 keep alive.

A player's output and its end are written to the evidence as its person learns of them; the person
answers every question.
"""

from contextlib import suppress
from pathlib import Path

import msgspec
from anyio.abc import TaskGroup

from llmos.kernel.machine import Machine
from llmos.kernel.process import End, Process
from llmos.kernel.protocol import Asked, Output
from llmos.kernel.terminal import Terminal
from llmos.memory import processes
from llmos.syscalls.errors import E_ARG, E_STORAGE
from tests.faults.evidence import Evidence, Shown, append
from tests.faults.player.player import FOLDER

NUM_LOOKED_AT = 300


class Crowd:
    """Everybody around one machine; `tasks` are theirs."""

    def __init__(
        self, machine: Machine, evidence: Evidence, tasks: TaskGroup, workspace: Path
    ) -> None:
        self._machine = machine
        self._evidence = evidence
        self._tasks = tasks
        self._workspace = str(workspace)
        self._attended: set[int] = set()
        self.players: list[Process] = []

    async def start(
        self, name: str, seed: int, num_calls: int, *, patience_ms: int = 0, model: str = "echo"
    ) -> None:
        """Start a player as a person would."""
        launcher = self._machine.launcher
        argv = (name, str(seed), str(num_calls), str(self._evidence.acks), str(patience_ms))
        birth = launcher.prepare(
            str(FOLDER), argv, workspace=self._workspace, readable=(), model=model, parent=None
        )
        pid = await self._machine.db.write(lambda connection: launcher.record(connection, birth))
        process = launcher.start(pid, birth, Terminal())
        self.players.append(process)
        self._attend(pid, process.terminal, process.end)

    async def bring_back(self) -> bool:
        """Attend what a dead kernel left and this one lets go on; whether any has not ended."""
        records = await processes.list(self._machine.db, NUM_LOOKED_AT)
        left = {one.pid: one for one in records if one.ended_at is None}
        for pid in left.keys() - self._attended:
            end = self._machine.table.end_of(pid)
            with suppress(E_ARG, E_STORAGE):  # its parent has a person; it has ended; a bad disk
                self._attend(pid, await self._machine.launcher.attach(pid), end)
        return bool(left)

    def _attend(self, pid: int, terminal: Terminal, end: End) -> None:
        self._attended.add(pid)
        self._tasks.start_soon(self._look_at, terminal)
        self._tasks.start_soon(self._wait_end, pid, terminal, end)

    async def _look_at(self, terminal: Terminal) -> None:
        """The person: sees what is shown, and answers."""
        while (event := await terminal.next_event()) is not None:
            if isinstance(event, Output):
                self._note(Shown(event.pid, event.text))
            elif isinstance(event, Asked):
                terminal.answer(event.ask, f"the answer to {event.prompt}")

    async def _wait_end(self, pid: int, terminal: Terminal, end: End) -> None:
        await end.told.wait()
        if end.exit is not None:
            self._note(Shown(pid, "", end.exit.status))
        terminal.close()

    def _note(self, shown: Shown) -> None:
        append(self._evidence.shown, msgspec.json.encode(shown))
