"""`llmos inspect`, `replay` and `fork`: see a process as it was, run it again, go on otherwise."""

import os
from collections.abc import Iterator, Sequence

import anyio
import click
import msgspec

from llmos.kernel.config import load_config
from llmos.kernel.protocol import (
    Divergence,
    Fork,
    Inspect,
    Inspection,
    InspectionPart,
    Replay,
    ReplayReport,
)
from llmos.kernel.sampling import Override
from llmos.syscalls.types import Message

from .connection import reach_kernel, run_client
from .failure import EXIT_FAILED, show_failure
from .processes import PID, ask_kernel
from .running import model_option, run_at_terminal, run_in_background
from .tables import print_json, print_table

MAX_SHOWN_CHARS = 100
STEP = click.IntRange(min=0, max=2**53)
_override = msgspec.json.Decoder(Override)


@click.command()
@click.argument("pid", type=PID)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def replay(pid: int, as_json: bool) -> int:
    """Run process PID again, answered from its journal alone; exit code 1 if it does not fit."""
    report = ask_kernel(Replay(pid), ReplayReport)
    if as_json:
        print_json(report)
    if report.divergence is None:
        click.echo(f"llmos: {describe_success(report)}", err=True)
        return 0
    fix = "`llmos log` shows the journal's calls"
    if report.has_other_code:
        fix = "run the app anew: its code has changed since this journal was made"
    show_failure(f"process {pid} {describe(report.divergence)}", fix)
    return EXIT_FAILED


def describe_success(report: ReplayReport) -> str:
    """What is to be said of a replay that fits."""
    end = "as far as its journal goes" if report.is_unfinished else "to the same end"
    code = "; its code has changed meanwhile" if report.has_other_code else ""
    return f"process {report.pid} made the same {report.num_calls} calls again, {end}{code}"


def describe(divergence: Divergence) -> str:
    """Where a replay left its journal, with the two calls as far as they are known."""
    if divergence.step is None:
        return f"ends otherwise: {divergence.why}"
    expected = came = "no call"
    if divergence.expected is not None:
        expected = f"{divergence.expected} (digest {divergence.expected_digest})"
    if divergence.came is not None:
        came = f"{divergence.came} {divergence.came_arguments} (digest {divergence.came_digest})"
    call = f" (call {divergence.number})" if divergence.number is not None else ""
    place = f"diverges at step {divergence.step}{call}"
    return f"{place}: the journal has {expected}, the app made {came}; {divergence.why}"


@click.command()
@click.argument("pid", type=PID)
@click.option("--at", type=STEP, required=True, help="How many of its calls to take along.")
@model_option
@click.option("--set", "words", multiple=True, metavar="FIELD=VALUE", help="Sampling from then.")
@click.option("-d", "--detach", is_flag=True, help="Print the pid and leave the app running.")
def fork(pid: int, at: int, model: str | None, words: Sequence[str], detach: bool) -> int:
    """Start a process that has made the first calls of process PID, and goes on from there."""
    if model is not None and os.path.isdir(model):
        model = os.path.abspath(model)
    request = Fork(pid, at, model, dict(map(parse_override, words)), detach)
    if detach:
        return anyio.run(run_in_background, load_config(os.environ), request)
    return run_at_terminal(request, f"fork-{pid}")


def parse_override(word: str) -> tuple[str, Override]:
    """A field of Sampling and its value from `field=value`."""
    name, _, value = word.partition("=")
    try:
        return name, _override.decode(value)
    except msgspec.MsgspecError:
        raise click.UsageError(
            f"--set {word}: not FIELD=VALUE with a number or a JSON list of texts;"
            " fix: --set temperature=0.2"
        ) from None


@click.command()
@click.argument("pid", type=PID)
@click.option("--at", type=STEP, help="After how many of its calls; all by default.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with everything.")
def inspect(pid: int, at: int | None, as_json: bool) -> int:
    """Show what process PID was after its first calls: its state, contexts and output."""
    head, parts = run_client(lambda: _ask_for_parts(Inspect(pid, at)))
    output = "".join(part.output for part in parts)
    contexts: dict[int, list[Message]] = {number: [] for number in head.contexts}
    for part in parts:
        contexts.setdefault(part.context, []).extend(part.messages)
    contexts.pop(0, None)  # parts without a context
    if as_json:
        shown = msgspec.structs.asdict(head) | {"output": output, "contexts": contexts}
        print_json(shown)
        return 0
    print_table((f"PROCESS {head.pid}", f"after {head.at} of {head.num_calls} calls"), lines(head))
    for number, messages in contexts.items():
        print_table((f"CONTEXT {number}", ""), ((one.role, show_message(one)) for one in messages))
    if output:
        print_table(("OUTPUT",), ((line,) for line in output.splitlines()))
    return 0


async def _ask_for_parts(request: Inspect) -> tuple[Inspection, list[InspectionPart]]:
    async with reach_kernel(load_config(os.environ)) as connection:
        head = await connection.request(request, Inspection)
        parts = [await connection.next_answer(InspectionPart)]
        while not parts[-1].is_last:
            parts.append(await connection.next_answer(InspectionPart))
    return head, parts


def lines(head: Inspection) -> Iterator[tuple[str, str]]:
    """The lines of the first table."""
    yield "state", head.state
    yield "app", " ".join((head.app, *head.argv))
    yield "model", head.model
    yield "tokens", f"{head.prompt_tokens}+{head.completion_tokens}"
    yield "calls", ", ".join(f"{name} {count}" for name, count in head.calls.items()) or "none"
    for row in head.open:
        yield "open", f"call {row.number}, {row.name} at step {row.strand}:{row.seq}"


def show_message(message: Message) -> str:
    """A message in one short line."""
    wishes = [f"{call.name} {call.arguments}" for call in message.tool_calls]
    text = " ".join([message.content, *wishes])
    return text if len(text) <= MAX_SHOWN_CHARS else text[: MAX_SHOWN_CHARS - 1] + "…"
