"""Calls as an app makes them: numbered within their strand, sent, answered; branches of calls.

Calls are numbered in program order, which is what makes a replay find each result again. Every
branch that `gather` or `start` begins has a strand of its own, so it does not matter which of them
is first.
"""

import asyncio
import contextvars
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeGuard, TypeVar

import anyio
import msgspec

from .branch import Branch
from .errors import E_ARG, E_BUSY, E_CANCELLED, raise_reply
from .idleness import is_idle
from .strands import Strand, current_strand
from .table import BY_REQUEST
from .tasks import side_by_side
from .values import Patch, Patched
from .wire import (
    GONE,
    AskIdle,
    Cancel,
    Chunk,
    Deliver,
    Failure,
    FrameStream,
    FromKernel,
    Goodbye,
    Idle,
    Joined,
    Reply,
    Request,
    Welcome,
    decode,
    encode,
    encode_frame,
)

RETRY_AFTER_SECONDS = 0.1
MAX_CALLS_AT_ONCE = 128  # half of what the kernel takes: cancelled calls may still be on their way
T = TypeVar("T")
OnText = Callable[[str], None]
_from_kernel = msgspec.msgpack.Decoder(FromKernel)
_reply_decoders = {row.name: msgspec.msgpack.Decoder(row.reply) for row in BY_REQUEST.values()}


class _Pending:
    """A call that waits for its reply."""

    def __init__(self, on_text: OnText | None) -> None:
        self.reply: asyncio.Future[Reply | Failure] = asyncio.get_running_loop().create_future()
        self.on_text = on_text


def _is_refused(reply: Reply | Failure) -> TypeGuard[Failure]:
    """Whether the kernel had no room for the call, which then may come again as it was."""
    if not isinstance(reply, Failure):
        return False
    return reply.error.code == E_BUSY.code and reply.error.field == "seq"


class Caller:
    """The app's end of its stream of calls."""

    def __init__(self, stream: FrameStream) -> None:
        self._stream = stream
        self._pending: dict[tuple[str, int], _Pending] = {}
        self._root = Strand("0")
        self._room = anyio.Semaphore(MAX_CALLS_AT_ONCE, fast_acquire=True)
        self._branches: set[Branch[Any]] = set()
        self._is_closed = False

    async def hear(self) -> Welcome | Deliver:
        """Hand replies to their callers until a Welcome or a signal comes, and return that."""
        while True:
            frame: FromKernel = decode(await self._stream.receive(), _from_kernel)
            match frame:
                case Welcome() | Deliver():
                    return frame
                case AskIdle():
                    await self._stream.send(Idle(is_idle()))
                case Goodbye():
                    raise_reply(frame.error)
                case Chunk():
                    pending = self._pending.get((frame.strand, frame.seq))
                    if pending is not None and pending.on_text is not None:
                        pending.on_text(frame.text)
                case Reply() | Failure():
                    pending = self._pending.get((frame.strand, frame.seq))
                    if pending is not None and not pending.reply.done():
                        pending.reply.set_result(frame)

    async def call(self, request: msgspec.Struct, on_text: OnText | None = None) -> Any:
        """Make the syscall whose request this is; its typed error is raised.

        Waits while MAX_CALLS_AT_ONCE are under way, and when the kernel has no room: that it had
        none is nothing that a replay could repeat.
        """
        row = BY_REQUEST[type(request)]
        strand = current_strand.get(self._root)
        async with self._room:
            if self._is_closed:
                raise _ending()
            if strand.is_deciding and row.request is not Patch:
                raise _undecided(strand)
            key = (strand.name, strand.next_seq)
            frame = encode_frame(Request(*key, row.name, msgspec.Raw(encode(request))))
            strand.next_seq += 1  # only now: what cannot be sent takes no number
            reply = await self._exchange(key, frame, on_text)
            while _is_refused(reply):
                await anyio.sleep(reply.error.retry_after_seconds or RETRY_AFTER_SECONDS)
                reply = await self._exchange(key, frame, on_text)
        if isinstance(reply, Failure):
            raise_reply(reply.error)
        return decode(reply.value, _reply_decoders[row.name])

    async def _exchange(
        self, key: tuple[str, int], frame: bytes, on_text: OnText | None
    ) -> Reply | Failure:
        """Send a request and wait for what comes back; a cancel is told to the kernel."""
        pending = self._pending[key] = _Pending(on_text)
        try:
            await self._stream.send_frame(frame)
            return await pending.reply
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True), suppress(*GONE):
                await self._stream.send(Cancel(*key))
            raise
        finally:
            del self._pending[key]

    # -- branches

    async def gather(self, *branches: Awaitable[T]) -> list[T]:
        """Run branches side by side, each in a strand of its own; results in argument order.

        The first branch that fails ends the others, and its error is raised.
        """
        parent = current_strand.get(self._root)
        results: list[Any] = [None] * len(branches)

        async def run(index: int, branch: Awaitable[T], strand: Strand) -> None:
            current_strand.set(strand)
            results[index] = await branch

        num_joined = parent.count_joined()
        async with side_by_side() as tasks:
            if num_joined is not None:
                tasks.start_soon(self._tell_joined, parent.name, num_joined)
            for index, branch in enumerate(branches):
                tasks.start_soon(run, index, branch, parent.child())
        return results

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Branch[T]:
        """Let a coroutine run on in a strand of its own; await the branch for its result.

        What still runs when main ends is cancelled. E_ARG for what is no fresh coroutine.
        """
        if not _is_unbegun(coroutine):
            fix = "fix: start what a call of an async function gives: sys.start(work())"
            what = f"{type(coroutine).__name__!r} is no coroutine that has not begun"
            raise E_ARG(f"{what}; {fix}", field="coroutine")
        parent = current_strand.get(self._root)
        num_joined = parent.count_joined()
        child = parent.child()
        context = contextvars.copy_context()
        context.run(current_strand.set, child)
        work = self._run_branch(coroutine, parent.name, num_joined)
        return Branch(child.name, work, context, self._branches)

    async def _run_branch(
        self, coroutine: Coroutine[Any, Any, T], parent: str, num_joined: int | None
    ) -> T:
        try:
            if num_joined is not None:
                await self._tell_joined(parent, num_joined)
            return await coroutine
        finally:
            coroutine.close()

    async def _tell_joined(self, strand: str, num_children: int) -> None:
        """Let the kernel forget the strands of the branches before this one."""
        with suppress(*GONE):
            await self._stream.send(Joined(strand, num_children))

    # -- versions of an app

    async def patch(self, id: str) -> bool:
        """Whether this run is to take the app's new way here, and not the one of an older version.

        True where the run has not been before, which the journal then keeps, so a replay says True
        again. False in a replay of calls that were made without this patch: nothing is journaled,
        and the number goes to the next call. Each call decides for its own place. E_BUSY while
        other calls of the strand are under way.
        """
        strand = current_strand.get(self._root)
        if strand.is_deciding or any(name == strand.name for name, _ in self._pending):
            raise _undecided(strand)
        with strand.deciding(), anyio.CancelScope(shield=True):
            reply: Patched = await self.call(Patch(id, strand.next_child - 1))
        if not reply.applies:
            strand.next_seq -= 1
        return reply.applies

    # -- the end

    def close(self) -> None:
        """Refuse calls from now on: nobody reads replies any more."""
        self._is_closed = True

    async def end_branches(self) -> None:
        """Cancel the branches that still run, and wait until they have ended."""
        while alive := tuple(self._branches):
            for branch in alive:
                branch.cancel()
            for branch in alive:
                await branch.wait_ended()


def _ending() -> E_CANCELLED:
    return E_CANCELLED("this run of the process is ending, and makes no calls any more")


def _undecided(strand: Strand) -> E_BUSY:
    return E_BUSY(
        f"sys.patch and another call of strand {strand.name} at once; fix: await one, then make "
        "the other, or give each branch a strand with sys.gather or sys.start",
        field="strand",
    )


def _is_unbegun(value: object) -> TypeGuard[Coroutine[Any, Any, Any]]:
    return inspect.iscoroutine(value) and inspect.getcoroutinestate(value) == inspect.CORO_CREATED
