"""Contexts and notes: `context_*`, `remember`, `recall`, `forget`."""

from llmos.memory.db import Connection
from llmos.syscalls.memory import (
    ContextAppend,
    ContextCreate,
    ContextCreated,
    ContextLength,
    ContextMessages,
    ContextRead,
    Forget,
    Forgotten,
    Recall,
    Recalled,
    Remember,
    Remembered,
)

from .trap import Effect, Trap


async def sys_context_create(trap: Trap, call: ContextCreate) -> Effect:
    """Start a context of this process."""
    memory, pid = trap.machine.memory, trap.process.pid
    return Effect(lambda c: ContextCreated(memory.context_create(c, pid, call.messages)))


async def sys_context_append(trap: Trap, call: ContextAppend) -> Effect:
    """Add messages to a context of this process."""
    memory, pid = trap.machine.memory, trap.process.pid

    def apply(connection: Connection) -> ContextLength:
        num_messages = memory.context_append(connection, pid, call.context, call.messages)
        return ContextLength(num_messages, call.context, num_messages - len(call.messages))

    return Effect(apply)


async def sys_context_read(trap: Trap, call: ContextRead) -> ContextMessages:
    """A context's messages."""
    messages = await trap.machine.memory.context_read(trap.process.pid, call.context)
    return ContextMessages(messages)


async def sys_remember(trap: Trap, call: Remember) -> Effect:
    """Keep a note."""
    space = call.space or trap.process.capabilities.memory.default_name()
    memory, tenant, pid = trap.machine.memory, trap.process.tenant, trap.process.pid
    at = trap.started_at

    return Effect(
        lambda c: Remembered(
            memory.remember(
                c, tenant, space, call.text, kind=call.kind, role=call.role, session=str(pid), at=at
            )
        )
    )


async def sys_recall(trap: Trap, call: Recall) -> Recalled:
    """The notes that answer a query."""
    rule = trap.process.capabilities.memory
    spaces = (call.space,) if call.space else rule.readable_names()
    notes = await trap.machine.memory.recall(trap.process.tenant, spaces, call.query, call.limit)
    return Recalled(tuple(notes))


async def sys_forget(trap: Trap, call: Forget) -> Effect:
    """Make a note unfindable."""
    space = call.space or trap.process.capabilities.memory.default_name()
    memory, tenant = trap.machine.memory, trap.process.tenant
    return Effect(lambda c: Forgotten(memory.forget(c, tenant, space, call.uid)))
