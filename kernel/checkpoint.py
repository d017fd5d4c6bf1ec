"""A checkpoint: a process begins anew, with other arguments and an empty journal.

The app asks for it by a call that has no reply and, unless it is refused, no row. Its main unwinds,
its OS process ends, and then one transaction makes the change. Whatever is killed before leaves a
process that comes to its checkpoint again by replay, and after it one that has begun anew.
"""

import secrets

import msgspec

from llmos.memory import processes
from llmos.memory.db import Connection
from llmos.memory.journal import CHECKPOINT_STRAND, JournalRow, begin_anew
from llmos.syscalls.process import Checkpoint, Checkpointed
from llmos.syscalls.types import Usage
from llmos.syscalls.wire import encode

from .journal import digest_call
from .machine import Machine
from .process import Process, ProcessSpec

SALT_BYTES = 16


async def complete_checkpoint(machine: Machine, process: Process) -> None:
    """Make a process whose OS process is gone the one that its checkpoint asked for.

    Its salt is a new one too: its calls are numbered from 0 again, and they are not the old ones,
    whose seeds and idempotency keys are used. Waits for as long as the store cannot write.
    """
    assert process.next_argv is not None
    salt = secrets.token_hex(SALT_BYTES)
    spec = msgspec.structs.replace(process.spec, argv=process.next_argv, salt=salt)
    row = _first_row(machine, process, spec)

    def change(connection: Connection) -> None:
        processes.change(connection, process.pid, spec=msgspec.msgpack.encode(spec))
        begin_anew(connection, row)

    await machine.db.write(change, keep=True)
    process.spec = spec
    num_tokens = (process.prompt_tokens, process.completion_tokens)
    process.begin_again((row,), num_tokens, process.num_printed_chars)


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
