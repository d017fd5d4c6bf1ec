"""Tables for people and JSON for programs: what every read command prints.

A terminal gets columns that fit it; a file or a pipe gets every word on one line per row.
"""

import sys
from collections.abc import Iterable, Sequence

import msgspec

MAX_WIDTH = 100_000


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print aligned columns; the last one gives way where the terminal is narrow."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [[Text(cell.replace("\n", " ")) for cell in row] for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(header):
        widths = [len(name), *(row[index].cell_len for row in cells)]
        min_width = None if index == len(header) - 1 else max(widths)
        table.add_column(name, no_wrap=True, overflow="ellipsis", min_width=min_width)
    for row in cells:
        table.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else MAX_WIDTH, highlight=False)
    with console.capture() as capture:
        console.print(table)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    sys.stdout.write("\n".join(lines) + "\n")


def print_json(value: object) -> None:
    """Print one JSON document on one line."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
