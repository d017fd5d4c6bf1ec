"""The memory manager: what the kernel's handlers need of the store, in one place.

Functions that take a connection run in `Database.write`, beside the journal's row of the call;
the others read.
"""

from collections.abc import Sequence

from sqlalchemy import Connection

from llmos.syscalls.memory import Note
from llmos.syscalls.types import Message

from . import contexts, store
from .db import Database
from .recall import recall


class MemoryManager:
    """Contexts by process, notes by tenant and space."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def remember(
        self,
        connection: Connection,
        tenant: str,
        space: str,
        text: str,
        *,
        kind: str,
        role: str,
        session: str | None,
        at: float,
    ) -> str:
        """Keep a text; its uid. E_ARG for text that is not valid Unicode."""
        item = store.Item(
            tenant, space, text, recorded_at=at, kind=kind, role=role, session=session
        )
        return store.remember(connection, item)

    def forget(self, connection: Connection, tenant: str, space: str, uid: str) -> bool:
        """Make a note unfindable and erase its text; whether there was one."""
        return store.forget(connection, tenant, space, uid)

    async def recall(
        self, tenant: str, spaces: Sequence[str], query: str, limit: int
    ) -> list[Note]:
        """The notes of a tenant's spaces that answer `query`, best first."""
        return await recall(self._db, tenant, spaces, query, limit)

    def context_create(
        self, connection: Connection, pid: int, messages: tuple[Message, ...]
    ) -> int:
        """Start a context of process `pid`; its number."""
        return contexts.create(connection, pid, messages)

    def context_append(
        self, connection: Connection, pid: int, context: int, messages: tuple[Message, ...]
    ) -> int:
        """Add messages; how many there are now. E_ARG if this process has no such context."""
        return contexts.append(connection, pid, context, messages)

    async def context_read(self, pid: int, context: int) -> tuple[Message, ...]:
        """The messages in order. E_ARG if this process has no such context."""
        return await self._db.read(lambda connection: contexts.read(connection, pid, context))
