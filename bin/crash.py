"""What a program of llmos does before anything else: be ready for what nobody foresaw.

A crash is one line on stderr; the traceback goes to a file that the line names. A standard stream
that was closed leads nowhere, instead of into the next file that is opened: that is the store.
"""

import os
import sys
from types import TracebackType

EXIT_INTERRUPTED = 130


def install_crash_report() -> None:
    """From now on an exception that nobody catches becomes one line."""
    sys.excepthook = report_crash


def open_streams() -> None:
    """Make sure that the descriptors 0, 1 and 2 and their streams are there."""
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, mode))


def report_crash(
    kind: type[BaseException], failure: BaseException, trace: TracebackType | None
) -> None:
    """Say it in one line. Ctrl-C outside of everything that handles it ends the program here."""
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("llmos: interrupted\n")
        sys.stderr.flush()
        os._exit(EXIT_INTERRUPTED)
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="llmos-", suffix=".log", delete=False) as log:
        traceback.print_exception(kind, failure, trace, file=log)
    sys.stderr.write(f"llmos: a fault of llmos: {kind.__name__}\nfix: report it with {log.name}\n")
