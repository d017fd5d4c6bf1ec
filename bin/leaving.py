"""A terminal that is closed: its client hangs up and lets the kernel do the rest.

The kernel may run in this very process. So SIGHUP and SIGTERM do not end the OS process: they end
the client's part. The kernel then ends the processes of this terminal, as it does for every person
who leaves, and stays for those of other terminals. A second SIGTERM ends the OS process at once; a
second SIGHUP does nothing, since a shell sends one beside the terminal's own.
"""

import os
import signal

import anyio


class Left(Exception):
    """The person has left: a signal said so."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


class Leaving:
    """Knows whether the person has left. `watch` runs as long as the client and its kernel do."""

    def __init__(self) -> None:
        self._left: Left | None = None
        self._client: anyio.CancelScope | None = None

    @property
    def is_told(self) -> bool:
        """Whether a signal has come."""
        return self._left is not None

    async def watch(self) -> None:
        """Hear the signals; the first one ends the client's part."""
        with anyio.open_signal_receiver(signal.SIGHUP, signal.SIGTERM) as signals:
            async for number in signals:
                if self.is_told and number == signal.SIGTERM:
                    os._exit(128 + number)
                self._left = self._left or Left(number)
                if self._client is not None:
                    self._client.cancel()

    def ends(self, client: anyio.CancelScope) -> None:
        """From now on leaving cancels this: at once, if the person has left already."""
        self._client = client
        if self._left is not None:
            client.cancel()

    def check(self) -> None:
        """Raise Left if the person has left."""
        if self._left is not None:
            raise self._left
