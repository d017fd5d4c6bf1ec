"""Tables for people and JSON for programs: what every read command prints.

A terminal gets columns that fit it; a file or a pipe gets every word on one line per row.
"""

import shutil
import sys
from collections.abc import Iterable, Sequence

import msgspec

MAX_WIDTH = 100_000
MIN_LAST_COLUMN = 10
GAP = "  "


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print aligned columns; the last one gives way where the terminal is narrow."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [[Text(cell.replace("\n", " ")) for cell in row] for row in rows]
    fixed = [[len(name), *(row[at].cell_len for row in cells)] for at, name in enumerate(header)]
    num_fixed = sum(max(widths) + len(GAP) for widths in fixed[:-1])
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name, no_wrap=True)
    for row in cells:
        if sys.stdout.isatty():
            room = shutil.get_terminal_size().columns - num_fixed
            row[-1].truncate(max(room, MIN_LAST_COLUMN), overflow="ellipsis")
        table.add_row(*row)
    console = Console(width=MAX_WIDTH, highlight=False)
    with console.capture() as capture:
        console.print(table)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    sys.stdout.write("\n".join(lines) + "\n")


def print_json(value: object) -> None:
    """Print one JSON document on one line."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
