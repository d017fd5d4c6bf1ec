"""`llmos app`, `model` and `syscalls`: what there is to run, to run it on, and to call."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import click

from .failure import EXIT_OK, show_error
from .tables import print_json, print_table

if TYPE_CHECKING:
    from .models import Report


@click.group()
def app() -> None:
    """List apps and make new ones."""


@app.command("new")
@click.argument("name")
@click.option("--in", "parent", default=".", metavar="DIR", help="Where to put its folder.")
def app_new(name: str, parent: str) -> int:
    """Make a folder NAME with an app that runs as it is."""
    from .scaffold import make_app

    folder = make_app(name, Path(parent))
    click.echo(folder)
    shown = folder if folder.is_absolute() else f"./{folder}"
    click.echo(f"llmos: try it: llmos run {shown} hello", err=True)
    return 0


@app.command("ls")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def app_ls(as_json: bool) -> int:
    """List the packaged apps."""
    from llmos.kernel.manifest import list_apps

    found = list_apps()
    if as_json:
        print_json(
            [
                {
                    "name": it.name,
                    "version": it.version,
                    "folder": str(it.folder),
                    "description": it.description,
                }
                for it in found
            ]
        )
    else:
        print_table(
            ("APP", "VERSION", "WHAT IT DOES"),
            ((it.name, it.version, it.description) for it in found),
        )
    return 0


@click.group(invoke_without_command=True)
@click.pass_context
def model(ctx: click.Context) -> int:
    """List models, say what one needs, and see what those that are loaded do."""
    if ctx.invoked_subcommand is None:
        code: int = ctx.invoke(model_ls)
        return code
    return 0


@model.command("ls")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def model_ls(as_json: bool = False) -> int:
    """List the models that come with llmos, and say how to get a real one."""
    from .models import list_models

    found = list_models()
    if as_json:
        print_json(found)
        return 0
    print_table(("MODEL", "WHAT IT IS"), ((it.name, it.description) for it in found))
    click.echo('a real one: llmos run --model PATH-OR-HUB-ID ask "hello"', err=True)
    click.echo("what it needs: llmos model estimate PATH-OR-HUB-ID", err=True)
    return 0


@model.command("stats")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, by model.")
def model_stats(name: str | None, as_json: bool) -> int:
    """Show what the running kernel's models have computed, and where their time went."""
    from .modelstats import show_stats

    return show_stats(name, as_json=as_json)


@model.command("trace")
@click.argument("name", required=False)
@click.option("--seconds", type=click.FloatRange(0.1, 600), default=10.0, show_default=True)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, writable=True),
    default="trace.json",
    show_default=True,
    metavar="FILE",
)
def model_trace(name: str | None, seconds: float, output: str) -> int:
    """Record a loaded model's steps for a while, for ui.perfetto.dev or chrome://tracing."""
    from .modelstats import write_trace

    return write_trace(name, seconds, Path(output))


@model.command("estimate")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def model_estimate(name: str, as_json: bool) -> int:
    """Say what the model NAME (a folder, a hub id or demo) needs, without loading it."""
    from llmos.kernel.config import load_config
    from llmos.kernel.devices import find_devices

    from .models import estimate
    from .service import ask_status

    config = load_config(os.environ)
    status = anyio.run(ask_status, config)
    report = estimate(name, config, find_devices(), status.holdings if status else ())
    if as_json:
        print_json(report)
    else:
        show_needs(report)
    return EXIT_OK if report.error is None else show_error(report.error)


def show_needs(report: "Report") -> None:
    """A row for each device, and on stderr where the model would go."""
    from llmos.kernel.room import format_bytes

    print_table(
        ("DEVICE", "WEIGHTS", "WORKING", "PAGES", "CONTEXT", "FREE FOR MODELS"),
        (
            (
                it.device,
                f"{format_bytes(it.weight_bytes)} ({it.dtype})",
                format_bytes(it.working_bytes),
                f"{it.token_bytes / 1024:.1f} KiB a token" if it.token_bytes else "not known",
                f"{it.context_tokens} of {it.window_tokens} tokens",
                f"{format_bytes(it.free_bytes)} of {format_bytes(it.total_bytes)}",
            )
            for it in report.needs
        ),
    )
    if report.error is None:
        places = ", ".join(it.device for it in report.needs if it.is_place)
        left = f", once {' and '.join(report.leavers)} left" if report.leavers else ""
        click.echo(f"{report.model} fits on {places}{left}", err=True)


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def syscalls(as_json: bool) -> int:
    """List what apps may ask of the kernel."""
    from llmos.syscalls.table import ROWS

    rows = [
        (row.name, row.effect, row.capability, (row.request.__doc__ or "").split("\n")[0])
        for row in ROWS
    ]
    header = ("name", "effect", "capability", "description")
    if as_json:
        print_json([dict(zip(header, row, strict=True)) for row in rows])
    else:
        print_table([name.upper() for name in header], rows)
    return 0
