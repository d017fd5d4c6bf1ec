"""The program `llmosd`: a kernel that stays until it is told to stop."""

import os
import signal
import sys

import anyio

from llmos.kernel.config import Config, load_config
from llmos.kernel.main import boot

from .crash import install_crash_report, open_streams
from .failure import run_guarded


def main() -> None:
    """Run the kernel; leaves by SystemExit with the exit code."""
    install_crash_report()
    open_streams()
    sys.exit(run_guarded(lambda: anyio.run(serve, load_config(os.environ))))


async def serve(config: Config) -> int:
    """Boot, load the default model, let go on what was left, and stay until told to stop.

    Shutdown, SIGTERM, SIGINT and SIGHUP tell it.
    """
    told = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(_watch_signals, told)
        async with boot(config) as machine:
            machine.prepare_model(None)
            machine.launcher.recover()
            group.start_soon(_relay, machine.stopping, told)
            await told.wait()
        group.cancel_scope.cancel()
    return 0


async def _relay(stopping: anyio.Event, told: anyio.Event) -> None:
    await stopping.wait()
    told.set()


async def _watch_signals(told: anyio.Event) -> None:
    """The first signal stops the kernel in order, the second at once."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            if told.is_set():
                os._exit(128 + number)
            told.set()


if __name__ == "__main__":
    main()
