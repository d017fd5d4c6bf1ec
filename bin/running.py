"""`llmos run`, `chat` and `shell`: run an app at this terminal."""

import os
import re
from functools import partial
from pathlib import Path

import anyio
import click

from llmos.kernel.config import Config, load_config
from llmos.kernel.protocol import Fork, Resume, Run

from .connection import reach_kernel, run_client
from .outlet import open_outlet
from .prompt import Prompt
from .service import start_daemon
from .terminal import Terminal, run_detached

# Options of llmos end at the first plain word: all words behind it are the app's own.
APP_WORDS = {"allow_interspersed_args": False}
model_option = click.option(
    "--model", metavar="NAME", help="A model's name, folder or hub id; `llmos model` lists."
)


@click.command(context_settings=APP_WORDS)
@click.option("-d", "--detach", is_flag=True, help="Print the pid and leave the app running.")
@model_option
@click.option(
    "--resume", "resume_pid", type=int, metavar="PID", help="Come to a process that runs or sleeps."
)
@click.argument("app", required=False)
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def run(
    app: str | None, args: tuple[str, ...], detach: bool, model: str | None, resume_pid: int | None
) -> int:
    """Run APP, by name or path. Words after APP are its own."""
    if resume_pid is not None:
        if app or detach or model:
            raise click.UsageError("--resume goes with nothing else")
        if resume_pid < 1:
            raise click.UsageError(f"there is no process {resume_pid}; fix: `llmos ps`")
        return run_at_terminal(Resume(resume_pid), f"resume-{resume_pid}")
    if app is None:
        raise click.UsageError("which app? ; fix: `llmos app ls` shows them")
    request = make_request(app, args, model, detach=detach)
    if detach:
        return anyio.run(run_in_background, load_config(os.environ), request)
    return run_at_terminal(request, app)


@click.command(context_settings=APP_WORDS)
@model_option
@click.argument("message", nargs=-1, type=click.UNPROCESSED)
def chat(message: tuple[str, ...], model: str | None) -> int:
    """Talk with a model that remembers; with MESSAGE, one turn."""
    return run_at_terminal(make_request("chat", message, model), "chat")


@click.command()
@model_option
def shell(model: str | None) -> int:
    """Run, list and stop apps line by line."""
    return run_at_terminal(make_request("shell", (), model), "shell", keep=True)


def make_request(
    app: str, args: tuple[str, ...], model: str | None, *, detach: bool = False
) -> Run:
    """What to ask of the kernel: paths are made absolute, files that are named become readable."""
    if "/" in app or app in (".", ".."):
        app = os.path.abspath(app)
    readable = tuple(os.path.abspath(word) for word in args if os.path.isfile(word))
    if model is not None and os.path.isdir(model):
        model = os.path.abspath(model)
    return Run(app, args, os.getcwd(), readable, model, detach)


def run_at_terminal(request: Run | Resume | Fork, name: str, *, keep: bool = False) -> int:
    """Run a process to its end at this terminal; returns the exit code."""
    return run_client(partial(_run, load_config(os.environ), request, name, keep))


async def _run(config: Config, request: Run | Resume | Fork, name: str, keep: bool) -> int:
    model = None if isinstance(request, Resume) else request.model
    async with (
        reach_kernel(config, model=model, prepare=True) as connection,
        open_outlet() as outlet,
    ):
        prompt = Prompt(find_history(config, name))
        return await Terminal(connection, outlet, prompt, keep=keep).run(request)


def find_history(config: Config, app: str) -> Path:
    """The file that keeps what was typed into an app, by the last part of its name."""
    return config.home / "history" / re.sub(r"[^\w.-]", "_", Path(app).name or "app")


async def run_in_background(config: Config, request: Run | Fork) -> int:
    """Start a process in a daemon, which is started if there is none; prints the pid."""
    connection = await start_daemon(config)
    try:
        click.echo(await run_detached(connection, request))
    finally:
        await connection.aclose()
    return 0
