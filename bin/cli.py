"""The program `llmos`. Ctrl-C and faults are taken care of before anything else is imported."""

import importlib
import sys

from .crash import install_crash_report, open_streams


def main() -> None:
    """Run the words of the command line; leaves by SystemExit with the exit code."""
    install_crash_report()
    open_streams()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    failure = importlib.import_module("llmos.bin.failure")
    commands = importlib.import_module("llmos.bin.commands")
    sys.exit(
        failure.run_guarded(lambda: commands.cli.main(prog_name="llmos", standalone_mode=False))
    )


if __name__ == "__main__":
    main()
