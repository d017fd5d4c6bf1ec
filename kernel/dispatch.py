"""The trap: decode, admit, replay, check, journal, handle, reply. Every call gets a reply.

A call that is rejected (unknown, out of bounds, out of order, not allowed) leaves no row. The one
broad `except` of the system is here: whatever a handler raises becomes a reply, is logged, and
concerns nobody but its caller.
"""

import logging
from collections.abc import Awaitable, Callable
from functools import partial

import anyio
import msgspec

from llmos.memory.db import Connection
from llmos.syscalls.errors import (
    E_ARG,
    E_BUSY,
    E_CANCELLED,
    E_KERNEL,
    E_SEQ,
    SyscallError,
)
from llmos.syscalls.table import TABLE, Syscall
from llmos.syscalls.tool import Tool
from llmos.syscalls.wire import Chunk, Failure, Reply, Request, decode, encode

from .capability import check
from .handlers import HANDLERS, Effect, Trap
from .journal import Entry, digest_call
from .machine import Machine
from .process import MAX_CALLS_IN_FLIGHT, Process
from .replay import check_interrupted, find_recorded, recorded_result

Send = Callable[[object], Awaitable[None]]
logger = logging.getLogger(__name__)
_decoders = {row.name: msgspec.msgpack.Decoder(row.request) for row in TABLE.values()}
_DURABLE_INTENT = frozenset({"once", "idempotent", "wait"})


async def dispatch(machine: Machine, process: Process, request: Request, send: Send) -> None:
    """Perform one call of a process and send its reply."""
    key = (request.strand, request.seq)
    answer: Reply | Failure = fail_request(request, E_CANCELLED("the call was cancelled"))
    with process.in_flight[key]:
        try:
            result = await _perform(machine, process, request, send)
            answer = Reply(*key, msgspec.Raw(result))
        except SyscallError as error:
            answer = fail_request(request, error)
        except Exception:
            logger.exception("%s of process %d", request.name, process.pid)
            answer = fail_request(request, E_KERNEL(f"{request.name} failed; see the kernel's log"))
    await send(answer)
    del process.in_flight[key]  # only now: replies that the app does not read count as well


def fail_request(request: Request, error: SyscallError) -> Failure:
    """The reply that says why there is no result."""
    return Failure(request.strand, request.seq, error.reply())


def admit(process: Process, request: Request) -> None:
    """Take a request's number, before `dispatch`. E_SEQ out of order, E_BUSY past the cap."""
    expected = process.next_seq.get(request.strand, 0)
    if request.seq != expected:
        what = "came twice" if request.seq < expected else f"came before {expected}"
        raise E_SEQ(f"call {request.seq} of strand {request.strand} {what}", field="seq")
    if len(process.in_flight) >= MAX_CALLS_IN_FLIGHT:
        raise E_BUSY(
            f"{MAX_CALLS_IN_FLIGHT} calls are under way", retry_after_seconds=0.1, field="seq"
        )
    process.next_seq[request.strand] = expected + 1
    process.in_flight[request.strand, request.seq] = anyio.CancelScope()


async def _perform(machine: Machine, process: Process, request: Request, send: Send) -> bytes:
    """A call's result as msgpack of its reply type."""
    row = TABLE.get(request.name)
    if row is None:
        raise E_ARG(f"there is no syscall {request.name!r}", field="name")
    call = decode(request.args, _decoders[row.name])
    digest = digest_call(call)
    recorded = find_recorded(process, request.strand, request.seq, row, digest)
    if recorded is not None:
        result = recorded_result(recorded)
        if result is not None:
            return result
    check(
        process.capabilities,
        row,
        call,
        model=process.model,
        usage_tokens=process.completion_tokens,
        workspace=process.workspace,
    )
    effect = _effect(machine, row, call)
    entry = machine.journal.entry(process, request.strand, request.seq, row, effect, digest)
    trap = Trap(
        machine,
        process,
        request.strand,
        request.seq,
        recorded.started_at if recorded is not None else machine.clock.now(),
        _text_sender(request, send),
        partial(entry.begin, durable=False),
    )
    if effect == "null":
        return encode(await HANDLERS[row.name](trap, call))
    check_interrupted(recorded)
    if effect in _DURABLE_INTENT:
        with anyio.CancelScope(shield=True):  # a cancel must find a row that it can end
            await entry.begin(durable=True)
    return await _handle(trap, row, call, entry)


def _effect(machine: Machine, row: Syscall, call: msgspec.Struct) -> str:
    """The call's effect; a tool's is its own, and a call that it cannot take is rejected here."""
    if isinstance(call, Tool):
        machine.tools.decode(call.name, call.arguments)
        return machine.tools.effect(call.name)
    return row.effect


def _text_sender(request: Request, send: Send) -> Callable[[str], Awaitable[None]]:
    async def send_text(text: str) -> None:
        await send(Chunk(request.strand, request.seq, text))

    return send_text


async def _handle(trap: Trap, row: Syscall, call: msgspec.Struct, entry: Entry) -> bytes:
    """Run the handler and write how it ended. A kernel that stops leaves the row as INTENT."""
    scope = trap.process.in_flight[trap.strand, trap.seq]
    try:
        outcome = await HANDLERS[row.name](trap, call)
        with anyio.CancelScope(shield=True):  # what is done is done, and its row says so
            result = await _commit(outcome, entry)
    except SyscallError as error:
        entry.fail(error.reply())
        raise
    except anyio.get_cancelled_exc_class():
        if scope.cancel_called:
            cancelled = E_CANCELLED("the call was cancelled", partial=trap.partial)
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
