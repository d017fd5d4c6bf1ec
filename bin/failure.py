"""How a program of llmos fails: one or two lines on stderr, an exit code, never a traceback.

0 ok · 1 app failed · 2 usage · 3 state or daemon · 4 sandbox or model cannot run · 5 limit or
context · 6 permission · 7 killed · 130 Ctrl-C. A message may end in its own `; fix: …`.
"""

import os
import sys
from collections.abc import Callable
from contextlib import suppress

import click

from llmos.syscalls.errors import ErrorReply, SyscallError

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_STATE, EXIT_KILLED, EXIT_INTERRUPTED = 0, 1, 2, 3, 7, 130
EXIT_CODES = {"E_ARG": EXIT_USAGE, "E_MODEL": 4, "E_LIMIT": 5, "E_CONTEXT": 5, "E_PERM": 6}
EXIT_CODES |= {"E_CANCELLED": EXIT_KILLED, "E_GRAMMAR": EXIT_USAGE}
EXIT_CODES |= dict.fromkeys(("E_APP", "E_TOOL", "E_IN_DOUBT", "E_TIMEOUT"), EXIT_FAILED)
FIXES = {
    ("E_ARG", "app"): "`llmos app ls` shows the apps; a folder with an app.toml runs by its path",
    ("E_ARG", "model"): "`llmos model ls` shows the models",
    ("E_ARG", "pid"): "`llmos ps` shows the processes",
    ("E_MODEL", None): "`llmos model ls` shows the models",
    ("E_STORAGE", None): "`llmos doctor` looks at the state directory",
}


def show_failure(what: str, fix: str | None = None) -> None:
    """Say on stderr what failed and, if it is known, what to do."""
    what, found, own_fix = what.partition("; fix: ")
    fix = own_fix if found else fix
    lines = [f"llmos: {' '.join(what.split())}"]
    if fix:
        lines.append(f"fix: {' '.join(fix.split())}")
    sys.stdout.flush()
    with suppress(OSError):  # the terminal may be closed
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()


def show_error(error: ErrorReply) -> int:
    """Say what an error says; returns the exit code that goes with it."""
    bare = error.message.startswith(("Expected", "Object"))  # msgspec's words name no field
    place = f" ({error.field})" if bare and error.field else ""
    fix = FIXES.get((error.code, error.field)) or FIXES.get((error.code, None))
    show_failure(error.message + place, fix)
    return EXIT_CODES.get(error.code, EXIT_STATE)


def run_guarded(program: Callable[[], int | None]) -> int:
    """Run a program; every failure that can be foreseen becomes its lines and its exit code."""
    try:
        code = program()
        sys.stdout.flush()
        return code or EXIT_OK
    except (SyscallError, click.ClickException, click.Abort, OSError) as failure:
        return _report(failure)
    except (KeyboardInterrupt, BaseExceptionGroup) as failure:
        return _report(failure)


def _report(failure: BaseException) -> int:
    """The lines and the exit code of a failure; one that nobody foresaw is raised again."""
    match failure:
        case BaseExceptionGroup():
            return _report(failure.exceptions[0])
        case SyscallError():
            return show_error(failure.reply())
        case click.UsageError():
            path = failure.ctx.command_path if failure.ctx else "llmos"
            show_failure(failure.format_message().rstrip("."), f"{path} --help")
            return EXIT_USAGE
        case click.ClickException():
            show_failure(failure.format_message())
            return EXIT_USAGE
        case KeyboardInterrupt() | click.Abort():
            show_failure("interrupted")
            return EXIT_INTERRUPTED
        case BrokenPipeError():
            _drop_stdout()
            return EXIT_FAILED
        case OSError():
            place = f": {failure.filename}" if failure.filename else ""
            show_failure(f"{failure.strerror or failure}{place}")
            return EXIT_STATE
        case _:
            raise failure


def _drop_stdout() -> None:
    """Let what is still buffered for a reader that has left go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
