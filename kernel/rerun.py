"""A rerun: the OS process in which an app is replayed offline, beside the process that it is of.

It comes from the zygote like any other, and under a name of its own there, since the process may
be running. What it writes past the syscalls is shown to nobody.
"""

import itertools
import os
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import anyio
from anyio import to_thread

from llmos.memory.journal import load
from llmos.syscalls.errors import E_KERNEL, E_LIMIT
from llmos.syscalls.runtime import Program
from llmos.syscalls.stream import BytesOnlyStream, SocketStream
from llmos.syscalls.tasks import side_by_side
from llmos.syscalls.wire import Exit

from .applog import AppLog
from .codehash import hash_code
from .ending import judge
from .listing import decode_spec, require_record
from .machine import Machine
from .manifest import find_app
from .offline import OfflineReplay
from .process import Process
from .protocol import ReplayReport
from .terminal import NOBODY
from .workspace import require_folder
from .zygote import Zygote, open_sockets

TOKEN_BYTES = 16
LAST_WORDS_SECONDS = 1.0
_names = itertools.count(-1, -1)  # the zygote knows processes by their pids, which are positive


async def rerun(machine: Machine, zygote: Zygote, pid: int) -> ReplayReport:
    """Replay a process's app against its journal and report.

    E_ARG for an unknown process, an app or a folder that is gone, E_STORAGE for a damaged journal.
    """
    record = await require_record(machine, pid)
    spec = decode_spec(record)
    require_folder(spec.workspace)
    rows = await load(machine.db, pid)
    manifest = find_app(spec.app, Path(spec.workspace))
    process = Process(pid, record.parent, manifest, spec, machine.clock.now())
    process.code_hash = await to_thread.run_sync(hash_code, manifest.folder)
    replay = OfflineReplay(machine, process, record, rows)
    log = AppLog(pid, Path(os.devnull), NOBODY)
    await zygote.wait_up()
    ending = await _run(zygote, process, replay, log)
    ended, _ = judge(process, ending, log)
    return replay.report(ended)


async def _run(zygote: Zygote, process: Process, replay: OfflineReplay, log: AppLog) -> Exit | None:
    """One OS process from fork to reap; its last frame."""
    token, name = secrets.token_hex(TOKEN_BYTES), next(_names)
    module, function, folder = process.manifest.program()
    program = Program(process.pid, token, module, function, folder, process.spec.workspace)
    try:
        (call_end, app_end), (log_end, app_log_end) = open_sockets()
    except OSError as error:
        reason = f"no sockets for the app: {error.strerror}; fix: raise the limit (ulimit -n)"
        raise E_LIMIT(reason, field="descriptors") from None
    stream = await BytesOnlyStream.adopt(call_end)
    log_stream = await SocketStream.adopt(log_end)
    async with aclosing(stream), aclosing(log_stream), side_by_side() as tasks:
        tasks.start_soon(log.relay, log_stream)
        with anyio.CancelScope(shield=True):  # what was begun is known, and so reaped
            await zygote.fork(program, app_end, app_log_end, name)
        async with _reaped(zygote, name):
            ending = await _serve(zygote, name, replay, stream, token)
            if not replay.is_over:  # it ends by itself, and may say why
                with anyio.move_on_after(LAST_WORDS_SECONDS):
                    await zygote.wait_dead(name)
        tasks.cancel_scope.deadline = anyio.current_time() + LAST_WORDS_SECONDS
    return ending


async def _serve(
    zygote: Zygote, name: int, replay: OfflineReplay, stream: SocketStream, token: str
) -> Exit | None:
    """Answer calls to the end; what a dead app has left behind may still hold its socket open."""

    async def close_when_dead() -> None:
        await zygote.wait_dead(name)
        await anyio.sleep(LAST_WORDS_SECONDS)
        await stream.aclose()

    async with side_by_side() as watch:
        watch.start_soon(close_when_dead)
        ending = await replay.serve(stream, token)
        watch.cancel_scope.cancel()
    return ending


@asynccontextmanager
async def _reaped(zygote: Zygote, name: int) -> AsyncIterator[None]:
    """Whatever happens, the OS process is gone afterwards. E_KERNEL if its zygote died under it."""
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):
            zygote.send_signal(name, signal.SIGKILL)
            status = await zygote.wait(name)
        if status is None:
            raise E_KERNEL("the zygote died during the replay; fix: try again")
