"""The commands of `llmos`, each in a module that is imported when it is used."""

import importlib
import sys
from difflib import get_close_matches

import click

from llmos import __version__

COMMANDS = {
    "run": "running:run",
    "chat": "running:chat",
    "shell": "running:shell",
    "ps": "processes:ps",
    "log": "processes:log",
    "inspect": "timetravel:inspect",
    "replay": "timetravel:replay",
    "fork": "timetravel:fork",
    "trace": "tracing:trace",
    "kill": "processes:kill",
    "app": "catalogue:app",
    "model": "catalogue:model",
    "syscalls": "catalogue:syscalls",
    "start": "service:start",
    "stop": "service:stop",
    "status": "service:status",
    "doctor": "doctor:doctor",
    "db": "db:db",
}


class LazyCommands(click.Group):
    """Commands by name; a module is imported when its command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module and return the command."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(f"llmos.bin.{module}"), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but the error names what was perhaps meant."""
        word = args[0]
        if word not in COMMANDS and not word.startswith("-"):
            near = get_close_matches(word, COMMANDS, n=1)
            fix = f"llmos {near[0]}" if near else f"llmos run {word}, if it is an app"
            raise click.UsageError(f"there is no command {word!r}; fix: {fix}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyCommands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message="llmos %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> int:
    """An operating system for LLM programs. Without a command it opens the shell."""
    if ctx.invoked_subcommand is not None:
        return 0
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        click.echo(ctx.get_help())
        return 0
    shell = cli.get_command(ctx, "shell")
    assert shell is not None
    code: int = ctx.invoke(shell)
    return code
