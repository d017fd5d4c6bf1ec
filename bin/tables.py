"""Tables for people and JSON for programs: what every read command prints.

A terminal gets columns that fit it; a file or a pipe gets every word on one line per row.
"""

import shutil
import sys
from collections.abc import Iterable, Sequence

import msgspec

from .screen import CONTROLS

MIN_LAST_COLUMN = 10
GAP = "  "


class Table:
    """Aligned columns, in one part or in several; the last one gives way to a narrow terminal."""

    def __init__(self, header: Sequence[str]) -> None:
        self._header: Sequence[str] | None = header
        self._widths = [len(name) for name in header]

    def format(self, rows: Iterable[Sequence[str]]) -> str:
        """The next rows, the first ones under the header. A later row may widen its column."""
        from rich.cells import cell_len, set_cell_size

        cells = [[cell.replace("\n", " ") for cell in row] for row in rows]
        if self._header is not None:
            cells.insert(0, list(self._header))
            self._header = None
        for row in cells:
            self._widths = [
                max(pair) for pair in zip(self._widths, map(cell_len, row), strict=True)
            ]
        num_fixed = sum(self._widths[:-1]) + len(GAP) * (len(self._widths) - 1)
        room = max(shutil.get_terminal_size().columns - num_fixed, MIN_LAST_COLUMN)
        lines = []
        for *firsts, last in cells:
            if sys.stdout.isatty() and cell_len(last) > room:
                last = set_cell_size(last, room - 1).rstrip() + "…"
            columns = [
                set_cell_size(cell, width)
                for cell, width in zip(firsts, self._widths, strict=False)
            ]
            lines.append(GAP.join((*columns, last)).rstrip() + "\n")
        return "".join(lines)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print aligned columns under a header."""
    text = Table(header).format(rows)
    sys.stdout.write(text.translate(CONTROLS) if sys.stdout.isatty() else text)


def print_json(value: object) -> None:
    """Print one JSON document on one line."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
