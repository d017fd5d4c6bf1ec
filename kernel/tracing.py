"""A trace: the calls of a process, and of every process that came of its spawns."""

from collections import deque
from collections.abc import AsyncIterator

from llmos.memory import processes

from .history import read_history
from .listing import describe_process, require_record
from .machine import Machine
from .protocol import TracePiece

MAX_TRACED_PROCESSES = 1000


async def read_trace(machine: Machine, pid: int) -> AsyncIterator[TracePiece]:
    """Processes one after another, each with its own info first and then its calls.

    Parents come before their children; past MAX_TRACED_PROCESSES, children are left out. E_ARG if
    there is no such process, E_STORAGE for a damaged journal.
    """
    await require_record(machine, pid)
    waiting, num_seen = deque([pid]), 0
    while waiting and num_seen < MAX_TRACED_PROCESSES:
        record = await processes.get(machine.db, waiting.popleft())
        if record is None:
            continue
        num_seen += 1
        yield TracePiece(describe_process(machine, record))
        async for rows in read_history(machine, record.pid):
            waiting.extend(row.child for row in rows if row.child is not None)
            yield TracePiece(rows=rows)
