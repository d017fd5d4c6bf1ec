"""What a terminal shows: a process's words on stdout, everything about them on stderr.

Words go out as they come. On a terminal control characters are left out, so that no text that a
model or a tool wrote can move the cursor; into a file or a pipe they go as they are.
"""

import os
import sys

from .outlet import Outlet

MAX_RESULT_CHARS = 200
CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


class Screen:
    """Keeps track of where the cursor is, so that notes start on a line of their own."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self._out_is_terminal = sys.stdout.isatty()
        self._err_is_terminal = sys.stderr.isatty()
        plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
        self._dim = self._err_is_terminal and not plain
        self._inside_line = False

    def write(self, text: str) -> None:
        """Show a process's words as they come."""
        if not text:
            return
        self._inside_line = not text.endswith("\n")
        self._outlet.put(text.translate(CONTROLS) if self._out_is_terminal else text)

    def note(self, text: str) -> None:
        """Show one line about a process."""
        line = " ".join(text.translate(CONTROLS).split("\n"))
        self.start_line()
        self._outlet.put(f"\x1b[2m{line}\x1b[0m\n" if self._dim else f"{line}\n", is_error=True)

    def write_log(self, text: str) -> None:
        """Show what an app wrote past the syscalls."""
        self.start_line()
        text = text.translate(CONTROLS) if self._err_is_terminal else text
        self._outlet.put(text, is_error=True)

    def note_tool(
        self, name: str, arguments: str, text: str, *, failed: bool, seconds: float
    ) -> None:
        """Show which tool ran, on what, what it said and how long it took."""
        if len(text) > MAX_RESULT_CHARS:
            text = text[: MAX_RESULT_CHARS - 1] + "…"
        outcome = f"failed: {text}" if failed else text
        self.note(f"· {name} {arguments} → {outcome} ({format_seconds(seconds)})")

    def end_line(self) -> None:
        """End a line of output that has no end yet."""
        if self._inside_line:
            self.write("\n")

    def start_line(self) -> None:
        """Leave a line of output that has no end yet, if people would see the two as one."""
        if self._out_is_terminal and self._err_is_terminal:
            self.end_line()


def format_seconds(seconds: float) -> str:
    """A time in the unit that people would say it in."""
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {seconds % 60:.0f} s"
