"""Mail: `send` and `receive`.

A message is in its box from the transaction of its `send` to the one of its `receive`, each of
which also has the call's DONE row: it is sent once and received once, whatever dies in between.
"""

from llmos.memory import mail, processes, waits
from llmos.memory.db import Connection
from llmos.syscalls.errors import E_ARG, E_BUSY, E_PERM
from llmos.syscalls.ipc import Letter, Receive, Received, Send, Sent
from llmos.syscalls.tasks import side_by_side

from ..process import Process
from .trap import Effect, Trap

RETRY_AFTER_SECONDS = 1.0


async def sys_send(trap: Trap, call: Send) -> Effect:
    """Put a message into a process's box, and wake it if it sleeps for that."""
    machine, sender, woken = trap.machine, trap.process, list[int]()

    def apply(connection: Connection) -> Sent:
        _require_reachable(connection, sender, call.pid)
        sent_at = machine.clock.now()
        letter = mail.post(connection, call.pid, sender.pid, sent_at, call.text)
        if letter is None:
            what = f"process {call.pid} has {mail.MAX_MAIL} messages that it has not received"
            raise E_BUSY(what, retry_after_seconds=RETRY_AFTER_SECONDS, field="pid")
        woken[:] = waits.fire(connection, "message", call.pid)
        return Sent(letter)

    def tell(_: Sent) -> None:
        receiver = machine.table.get(call.pid)
        if receiver is not None:
            receiver.notify_mail()
        if woken:
            machine.launcher.wake(woken)

    return Effect(apply, tell)


def _require_reachable(connection: Connection, sender: Process, pid: int) -> None:
    """E_ARG if there is no such process any more, E_PERM if this one may not write to it."""
    record = processes.read(connection, pid)
    if record is None:
        raise E_ARG(f"there is no process {pid}", field="pid")
    if record.tenant != sender.tenant:
        raise E_PERM(f"process {pid} belongs to another tenant", field="pid")
    is_kin = pid in (sender.pid, sender.parent) or record.parent == sender.pid
    if not is_kin and not sender.capabilities.processes:
        raise E_PERM(
            f"process {pid} is neither parent nor child of this one; to write to it the manifest"
            " has to say [capabilities] processes = true",
            field="pid",
        )
    if record.ended_at is not None:
        raise E_ARG(f"process {pid} has ended", field="pid")


async def sys_receive(trap: Trap, call: Receive) -> Effect | Received:
    """Wait for the oldest message, until the time is over, counted from when this was called."""
    found: list[mail.Letter] = []
    async with side_by_side() as tasks:

        async def find() -> None:
            found.append(await _wait_for_letter(trap))
            tasks.cancel_scope.cancel()

        async def time_out(seconds: float) -> None:
            elapsed_seconds = max(0.0, trap.machine.clock.now() - trap.started_at)
            await trap.machine.clock.sleep(max(0.0, seconds - elapsed_seconds))
            tasks.cancel_scope.cancel()

        tasks.start_soon(find)
        if call.timeout_seconds is not None:
            tasks.start_soon(time_out, call.timeout_seconds)
    if not found:
        return Received(None)
    (letter,) = found

    def apply(connection: Connection) -> Received:
        mail.take(connection, letter.id)
        return Received(Letter(letter.sender, letter.text, letter.sent_at))

    return Effect(apply)


async def _wait_for_letter(trap: Trap) -> mail.Letter:
    """The oldest message that no other call of the process is about to take; this one is, then."""
    process, key = trap.process, (trap.strand, trap.seq)
    while True:
        arrived, taken = process.mail_arrived, process.letters
        if any(taker == key or taker not in process.in_flight for taker in taken.values()):
            taken = process.letters = {
                letter_id: taker
                for letter_id, taker in taken.items()
                if taker != key and taker in process.in_flight
            }
        letter = await mail.find_oldest(trap.machine.db, process.pid, tuple(taken))
        if process.letters is not taken:
            continue  # what was forgotten meanwhile may have been in the box when this looked
        if letter is None:
            await arrived.wait()
        elif letter.id not in taken:
            taken[letter.id] = key
            return letter
