"""`llmos db`: a backup of the store, a restore of one, and a look for damage."""

import os
from pathlib import Path

import click
import msgspec

from llmos.kernel.config import load_config

from .failure import EXIT_OK, EXIT_STATE
from .tables import print_json, print_table

FILE = click.Path(path_type=Path)


@click.group()
def db() -> None:
    """Back up, restore and check the store: all processes, contexts and notes."""


@db.command()
@click.argument("file", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def backup(file: Path, as_json: bool) -> int:
    """Write the whole store to FILE, also while processes run."""
    from llmos.memory.backup import back_up

    counts = msgspec.structs.asdict(back_up(load_config(os.environ).database, file))
    if as_json:
        print_json({"file": str(file), **counts})
    else:
        click.echo(f"llmos: {file} has {describe(counts)}", err=True)
    return EXIT_OK


@db.command()
@click.argument("file", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def restore(file: Path, as_json: bool) -> int:
    """Make FILE, a backup, the store; what it replaces is kept beside it."""
    from llmos.kernel.main import hold_state
    from llmos.memory.backup import restore

    config = load_config(os.environ)
    with hold_state(config):
        kept = restore(config.database, file)
    if as_json:
        print_json({"file": str(file), "kept": None if kept is None else str(kept)})
    else:
        where = "there was none before" if kept is None else f"the one before is {kept}"
        click.echo(f"llmos: {file} is the store now; {where}", err=True)
    return EXIT_OK


@db.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check(as_json: bool) -> int:
    """Read all of the store, also while processes run; exit code 3 if something is damaged."""
    from llmos.memory.backup import check_store

    damages, counts = check_store(load_config(os.environ).database)
    if as_json:
        print_json({"damages": damages, **msgspec.structs.asdict(counts)})
    elif damages:
        whose = ("-" if it.pid is None else str(it.pid) for it in damages)
        rows = ((it.what, pid, it.found, it.fix) for it, pid in zip(damages, whose, strict=True))
        print_table(("DAMAGED", "PID", "WHAT IS WRONG", "FIX"), rows)
    else:
        click.echo(f"llmos: all sound: {describe(msgspec.structs.asdict(counts))}", err=True)
    return EXIT_STATE if damages else EXIT_OK


def describe(counts: dict[str, int]) -> str:
    """What a store holds, in words."""
    return ", ".join(f"{count} {name.removeprefix('num_')}" for name, count in counts.items())
