"""A checkpoint: a process begins anew, with other arguments and an empty journal.

The app asks for it by a call that has no reply and, unless it is refused, no row. Its main unwinds,
its OS process ends, and then one transaction makes the change. Whatever is killed before leaves a
process that comes to its checkpoint again by replay, and after it one that has begun anew.
"""

import secrets
from typing import NamedTuple

import msgspec

from llmos.memory import processes
from llmos.memory.chunks import delete_all_chunks
from llmos.memory.db import Connection
from llmos.memory.journal import CHECKPOINT_STRAND, JournalRow, begin_anew, count_printed_chars
from llmos.syscalls.process import Checkpoint, Checkpointed
from llmos.syscalls.types import Usage
from llmos.syscalls.wire import encode

from .journal import digest_call
from .machine import Machine
from .process import Process, ProcessSpec

SALT_BYTES = 16
_decoder = msgspec.msgpack.Decoder(Checkpointed)


class NewLife(NamedTuple):
    """What a process is that begins anew: its spec, and the first row of its journal."""

    spec: ProcessSpec
    row: JournalRow

    def write(self, connection: Connection) -> None:
        """Make the change in the caller's transaction."""
        encoded = msgspec.msgpack.encode(self.spec)
        processes.change(connection, self.row.pid, spec=encoded)
        begin_anew(connection, self._count_output(connection))
        delete_all_chunks(connection, self.row.pid)

    def _count_output(self, connection: Connection) -> JournalRow:
        """The first row, with how much the process has written."""
        assert self.row.result is not None
        begun = _decoder.decode(self.row.result)
        num_chars = count_printed_chars(connection, self.row.pid)
        result = encode(msgspec.structs.replace(begun, num_chars=num_chars))
        return msgspec.structs.replace(self.row, result=result)


def plan_new_life(machine: Machine, process: Process, argv: tuple[str, ...]) -> NewLife:
    """What a process is to be that begins anew with these arguments.

    Its salt is a new one too: its calls are numbered from 0 again, and they are not the old ones,
    whose seeds and idempotency keys are used.
    """
    salt = secrets.token_hex(SALT_BYTES)
    spec = msgspec.structs.replace(process.spec, argv=argv, salt=salt)
    return NewLife(spec, _first_row(machine, process, spec))


async def complete_checkpoint(machine: Machine, process: Process) -> None:
    """Make a process whose OS process is gone the one that its checkpoint asked for.

    Waits for as long as the store cannot write.
    """
    assert process.next_argv is not None
    life = plan_new_life(machine, process, process.next_argv)
    await machine.db.write(life.write, keep=True)
    process.spec = life.spec
    num_tokens = (process.prompt_tokens, process.completion_tokens)
    process.begin_again((life.row,), num_tokens, process.num_printed_chars)


def _first_row(machine: Machine, process: Process, spec: ProcessSpec) -> JournalRow:
    """What the journal holds then. The tokens of the calls that go are counted in it."""
    usage = Usage(process.prompt_tokens, 0, process.completion_tokens)
    now = machine.clock.now()
    return JournalRow(
        pid=process.pid,
        strand=CHECKPOINT_STRAND,
        seq=0,
        name="checkpoint",
        effect="transactional",
        digest=digest_call(Checkpoint(spec.argv)),
        state="DONE",
        result=encode(Checkpointed(spec.argv, usage)),
        error=None,
        label="",
        code_hash=process.code_hash,
        started_at=now,
        ended_at=now,
    )
