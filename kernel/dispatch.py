"""The trap: decode, admit, replay, check, journal, handle, reply. Every call gets a reply.

A call that is rejected (unknown, out of bounds, out of order, not allowed) leaves no row. The one
broad `except` of the system is here: whatever a handler raises becomes a reply, is logged, and
concerns nobody but its caller.
"""

import logging

import anyio
import msgspec

from llmos.memory.db import Connection
from llmos.memory.journal import JournalRow
from llmos.syscalls.errors import (
    E_ARG,
    E_CANCELLED,
    E_IN_DOUBT,
    E_KERNEL,
    E_STORAGE,
    E_TOOL,
    SyscallError,
)
from llmos.syscalls.table import TABLE, Syscall
from llmos.syscalls.tool import Tool
from llmos.syscalls.values import Patch, Patched
from llmos.syscalls.wire import Chunk, Failure, Reply, Request, decode, encode

from .admission import give_back
from .capability import check
from .degraded import is_going
from .handlers import HANDLERS, Effect, Send, Trap
from .journal import Entry, digest_call
from .machine import Machine
from .process import Process
from .replay import (
    cancelled_error,
    find_recorded,
    is_passed,
    recorded_result,
    require_same,
    streamed_text,
    was_abandoned,
)

logger = logging.getLogger(__name__)
_decoders = {row.name: msgspec.msgpack.Decoder(row.request) for row in TABLE.values()}
_DURABLE_INTENT = frozenset({"once", "idempotent", "wait"})
_UNLIMITED = frozenset({"checkpoint"})  # what makes a full journal an empty one


async def dispatch(
    machine: Machine, process: Process, request: Request, again: bool, send: Send
) -> None:
    """Perform one admitted call of a process, or a call that comes `again`, and send its reply."""
    key = (request.strand, request.seq)
    answer: Reply | Failure | None = None
    call = process.in_flight[key]
    with call.scope:
        try:
            result = await _perform(machine, process, request, again, send)
            answer = Reply(*key, msgspec.Raw(result))
        except SyscallError as error:
            answer = fail_request(request, error)
        except Exception:
            logger.exception("%s of process %d", request.name, process.pid)
            answer = fail_request(request, E_KERNEL(f"{request.name} failed; see the kernel's log"))
    await send(answer or fail_request(request, E_CANCELLED("the call was cancelled")))
    if process.in_flight.get(key) is call:  # it has not given its number to another call
        del process.in_flight[key]  # only now: replies that the app does not read count as well


def fail_request(request: Request, error: SyscallError) -> Failure:
    """The reply that says why there is no result."""
    return Failure(request.strand, request.seq, error.reply())


async def _perform(
    machine: Machine, process: Process, request: Request, again: bool, send: Send
) -> bytes:
    """A call's result as msgpack of its reply type."""
    row = TABLE.get(request.name)
    if row is None:
        raise E_ARG(f"there is no syscall {request.name!r}", field="name")
    call = decode(request.args, _decoders[row.name])
    digest = digest_call(call)
    if isinstance(call, Patch) and not again and is_passed(process, request, call, digest):
        give_back(process, request)
        return encode(Patched(applies=False))
    recorded = await find_recorded(machine, process, request, again)
    if recorded is not None:
        require_same(recorded, row.name, digest, process.code_hash)
        if not again and was_abandoned(recorded):
            await anyio.sleep_forever()  # until the app gives it up once more
        result = recorded_result(recorded)
        if result is not None:
            if text := streamed_text(call, result):
                await send(Chunk(request.strand, request.seq, text))
            return result
    check(process.capabilities, row, call, model=process.model, workspace=process.workspace)
    effect, arguments = _effect(machine, row, call, recorded)
    where = request.strand, request.seq
    if effect != "null" and recorded is None and row.name not in _UNLIMITED:
        machine.journal.limits.require_room(process)
    entry = machine.journal.entry(process, *where, row, effect, digest, recorded)
    trap = Trap(machine, process, *where, arguments, entry, send)
    if effect == "null":
        return encode(await HANDLERS[row.name](trap, call))
    try:
        await machine.degraded.wait_admitted(process, len(request.args))
        if effect in _DURABLE_INTENT:
            await entry.begin(durable=True)
        return await _handle(trap, row, call, entry)
    except E_STORAGE as error:
        if is_going(process):
            raise
        raise entry.refuse(error) from None
    finally:
        if entry.is_queued:
            await machine.degraded.wait_durable(process)


def _effect(
    machine: Machine, row: Syscall, call: msgspec.Struct, recorded: JournalRow | None
) -> tuple[str, msgspec.Struct]:
    """A call's effect and arguments; a tool has its own, and what it cannot take is rejected."""
    if not isinstance(call, Tool):
        return row.effect, call
    try:
        return machine.tools.effect(call.name), machine.tools.decode(call.name, call.arguments)
    except E_TOOL as error:
        if recorded is None or recorded.effect != "once":
            raise
        what = f"{call.name} of step {recorded.strand}:{recorded.seq} was interrupted"
        raise E_IN_DOUBT(f"{what}, and cannot be asked: {error.message}") from None


async def _handle(trap: Trap, row: Syscall, call: msgspec.Struct, entry: Entry) -> bytes:
    """Run the handler and write how it ended. A kernel that stops leaves the row as INTENT."""
    in_flight = trap.process.in_flight[trap.strand, trap.seq]
    try:
        outcome = await HANDLERS[row.name](trap, call)
        result = await _commit(outcome, entry)
    except SyscallError as error:
        entry.fail(error.reply(), "IN_DOUBT" if isinstance(error, E_IN_DOUBT) else "FAILED")
        raise
    except anyio.get_cancelled_exc_class():
        if in_flight.scope.cancel_called:
            cancelled = cancelled_error(in_flight.is_abandoned, trap.partial)
            entry.fail(cancelled.reply(), "CANCELLED")
            raise cancelled from None
        raise
    return result


async def _commit(outcome: Effect | msgspec.Struct, entry: Entry) -> bytes:
    """Write the DONE row; an Effect with it in one transaction, then what leaves the kernel."""
    if not isinstance(outcome, Effect):
        result = encode(outcome)
        entry.end("DONE", result)
        return result
    replies: list[msgspec.Struct] = []

    def apply(connection: Connection) -> bytes:
        replies.append(outcome.apply(connection))
        return encode(replies[-1])

    result = await entry.commit(apply)
    if outcome.after is not None:
        outcome.after(replies[-1])
    return result
