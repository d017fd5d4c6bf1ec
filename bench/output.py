"""What every benchmark takes and shows: --quick and --json, a table, at last a JSON object."""

import argparse
import json
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table


def make_parser(name: str, quick: str) -> argparse.ArgumentParser:
    """The options of `bin/bench NAME`; `quick` says what --quick does."""
    parser = argparse.ArgumentParser(prog=f"bin/bench {name}")
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    return parser


def show_table(results: Mapping[str, float], title: str) -> None:
    """A row for each result."""
    table = Table("what", "value", title=title)
    for name, value in results.items():
        table.add_row(name.replace("_", " "), f"{value:,.4g}")
    Console().print(table)


def show(results: Mapping[str, float], title: str, *, as_json: bool) -> None:
    """The table, and the object if it is wanted."""
    show_table(results, title)
    if as_json:
        print(json.dumps(results))
