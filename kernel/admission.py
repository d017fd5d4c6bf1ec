"""Admission: which requests become calls, by their numbers and by how many are under way.

Numbers count up within a strand. A request in its order spends its number whatever the answer is,
as it does in the SDK, so a refused call leaves no gap. One that comes again is a retry: of a call
with a row it is answered from that row, and of one without (it was rejected, or the null call) it
is a new call, for nothing else knows of the first.

So that a replay decides as the first run did, a rejection without a row depends on nothing but the
call and the manifest; what depends on anything else is an outcome, and journaled. Two errors of the
moment have no row: E_BUSY with the field "seq", which the SDK hides by sending the same frame
again, and E_STORAGE, which no row can hold.
"""

import anyio

from llmos.syscalls.errors import E_BUSY, E_CANCELLED, E_LIMIT, E_NONDETERMINISM, E_SEQ
from llmos.syscalls.wire import Joined, Request

from .process import MAX_CALLS_IN_FLIGHT, CallInFlight, Process

MAX_STRANDS = 65_536
RETRY_AFTER_SECONDS = 0.1


def admit(process: Process, request: Request) -> bool:
    """Make a request a call in flight; True if its number came before.

    E_SEQ out of order or in a strand that has ended, E_NONDETERMINISM for the number of another
    call that is under way, E_BUSY for this very call's or past the cap, E_LIMIT for a new strand
    past theirs, E_CANCELLED once a checkpoint was taken.
    """
    if process.next_argv is not None:
        raise E_CANCELLED("the process begins anew, and makes no calls before that")
    expected = process.next_seq.get(request.strand)
    if expected is None:
        _require_open(process, request.strand)
        expected = 0
    if request.seq > expected:
        raise E_SEQ(f"{_name(request)} came before {expected}", field="seq")
    process.next_seq[request.strand] = max(expected, request.seq + 1)
    _require_room(process, request)
    call = CallInFlight(request, anyio.CancelScope())
    process.in_flight[request.strand, request.seq] = call
    return request.seq < expected


def give_back(process: Process, request: Request) -> None:
    """Let this call's number be the next call's of the strand; the call has no row and no effect.

    E_BUSY if another call of the strand came after it.
    """
    if process.next_seq[request.strand] != request.seq + 1:
        what = f"calls came after {_name(request)}, whose number is theirs then"
        raise E_BUSY(what, field="strand")
    process.next_seq[request.strand] = request.seq
    del process.in_flight[request.strand, request.seq]


def _name(request: Request) -> str:
    return f"call {request.seq} of strand {request.strand}"


def _require_room(process: Process, request: Request) -> None:
    same = process.in_flight.get((request.strand, request.seq))
    if same is not None:
        if same.request != request:
            raise E_NONDETERMINISM(f"{_name(request)} is under way as another call", field="seq")
        raise _busy(f"{_name(request)} is under way")
    if len(process.in_flight) >= MAX_CALLS_IN_FLIGHT:
        raise _busy(f"{MAX_CALLS_IN_FLIGHT} calls are under way")


def _busy(message: str) -> E_BUSY:
    return E_BUSY(message, retry_after_seconds=RETRY_AFTER_SECONDS, field="seq")


def _require_open(process: Process, strand: str) -> None:
    """A strand that is not known is new, or it or one of its ancestors has ended."""
    parent, *children = strand.split(".")
    for child in children:
        if int(child) <= process.num_joined.get(parent, -1):
            raise E_SEQ(f"strand {strand} has ended", field="strand")
        parent = f"{parent}.{child}"
    if len(process.next_seq) + len(process.num_joined) >= MAX_STRANDS:
        raise E_LIMIT(f"{MAX_STRANDS} strands are open", field="strand")


def join(process: Process, joined: Joined) -> None:
    """Forget strands that have ended, and all below them; a number per parent keeps them shut."""
    stem = f"{joined.strand}."

    def has_ended(strand: str) -> bool:
        child, _, _ = strand.removeprefix(stem).partition(".")
        return strand.startswith(stem) and int(child) <= joined.num_children

    ended = [strand for strand in process.next_seq if has_ended(strand)]
    for strand in ended:
        del process.next_seq[strand]
    for strand in [strand for strand in process.num_joined if has_ended(strand)]:
        del process.num_joined[strand]
    if ended:
        before = process.num_joined.get(joined.strand, 0)
        process.num_joined[joined.strand] = max(before, joined.num_children)
