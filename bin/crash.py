"""What a program of llmos leaves behind when something happens that nobody foresaw.

One line on stderr; the traceback goes to a file that the line names.
"""

import os
import sys
from types import TracebackType

EXIT_INTERRUPTED = 130


def install_crash_report() -> None:
    """From now on an exception that nobody catches becomes one line."""
    sys.excepthook = report_crash


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
