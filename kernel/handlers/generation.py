"""Generation: `generate`."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from typing import NamedTuple

import anyio
import msgspec
from msgspec.structs import replace

from llmos.memory.chunks import Branch, delete_chunks
from llmos.memory.db import Connection
from llmos.memory.journal import append_output
from llmos.syscalls.errors import E_ARG, E_LIMIT
from llmos.syscalls.generate import Choice, Generate, Generation
from llmos.syscalls.tasks import side_by_side
from llmos.syscalls.types import Message, ToolSpec
from llmos.syscalls.wire import encode

from ..chunks import NOTHING, Recording
from ..drivers.driver import Driver, Finished, GenerationJob, Note
from ..models import Model
from ..process import Process
from ..protocol import Notice
from ..sampling import override
from .telling import must_be_durable, telling
from .trap import Effect, Trap

MAX_SCORES = 16_384
DIGEST_BYTES = 16


class Asked(NamedTuple):
    """One branch: what the driver is asked for, and what there is of the answer."""

    job: GenerationJob
    recording: Recording


async def sys_generate(trap: Trap, call: Generate) -> Effect:
    """Run a generation; its text is streamed to the app or the output as it comes.

    One that was interrupted goes on after the tokens that were kept of it.
    """
    machine, process = trap.machine, trap.process
    call = replace(call, sampling=override(call.sampling, process.spec.sampling))
    _check(call, call.sampling.max_tokens or machine.config.max_tokens_default)
    name = call.model or process.model
    messages = call.messages
    if call.context is not None:
        messages = await machine.memory.context_read(process.pid, call.context) + messages
    tools = machine.tools.specs(call.tools)
    if call.context is not None or messages:
        await trap.begin()  # whether a context is empty depends on when: that is an outcome
    if not messages:
        raise E_ARG("there is no message to answer", field="messages")
    asked = await _ask(trap, call, messages, tools)
    with _reserving(process, asked), machine.chunks.kept([one.recording for one in asked]):
        model = machine.models.get(name)
        async with machine.models.using(name, announce_load(process, name, model)) as driver:
            is_strict = must_be_durable(machine.config, call, model.info)
            answers = await _run(trap, call, driver, asked, is_strict=is_strict)
            return _finish(trap, call, name, asked, answers)


def _check(call: Generate, max_tokens: int) -> None:
    """Raises E_ARG for what contradicts itself, and for more than a reply holds."""
    if call.sampling.logprobs is not None:
        num_scores = max_tokens * call.n * (1 + call.sampling.logprobs)
        if num_scores > MAX_SCORES:
            sizes = f"{num_scores} log-probabilities are asked for; a reply holds {MAX_SCORES}"
            raise E_ARG(f"{sizes}; fix: fewer max_tokens, logprobs or n", field="sampling.logprobs")
    if call.n > 1 and (call.stream or call.show):
        raise E_ARG("branches cannot be streamed or shown; ask for one", field="n")
    if call.tool_choice == "auto":
        return
    if call.grammar is not None:
        raise E_ARG("an answer that must be a call has its grammar", field="tool_choice")
    if not call.tools or call.tool_choice not in ("required", *call.tools):
        raise E_ARG(f"{call.tool_choice!r} is none of the tools", field="tool_choice")


async def _ask(
    trap: Trap, call: Generate, messages: tuple[Message, ...], tools: tuple[ToolSpec, ...]
) -> list[Asked]:
    """The branches, each with what an earlier kernel has kept of it; that goes with the ending."""
    process, where = trap.process, (trap.process.pid, trap.strand, trap.seq)
    chunks = trap.machine.chunks
    kept = await chunks.find(*where) if trap.entry.is_interrupted else {}
    decided = [chunk.max_tokens for begun in kept.values() for chunk in begun.chunks]
    max_tokens = decided[0] if decided else _decide_max_tokens(trap, call)
    pid, strand, seq = where
    trap.entry.at_end(partial(delete_chunks, pid=pid, strand=strand, seq=seq))
    prompt = hashlib.blake2b(encode((messages, tools)), digest_size=DIGEST_BYTES).digest()
    seed = call.sampling.seed
    if seed is None:
        seed = process.seed(trap.strand, trap.seq)
    asked: list[Asked] = []
    for number in range(call.n):
        recording = Recording(
            Branch(*where, number),
            prompt=prompt,
            max_tokens=max_tokens,
            is_shown=call.show,
            begun=kept.get(number, NOTHING),
        )
        job = GenerationJob(
            messages,
            tools,
            msgspec.structs.replace(
                call.sampling, seed=derive_seed(seed, number), max_tokens=max_tokens
            ),
            process.pid,
            process.tenant,
            call.grammar,
            call.tool_choice,
            trap.machine.table.find_root(process),
            recording.find_emitted(),
        )
        asked.append(Asked(job, recording))
    return asked


def derive_seed(seed: int, branch: int) -> int:
    """The seed of a branch: the first has the call's own, the others one of (seed, branch)."""
    if branch == 0:
        return seed
    name = f"{seed}/{branch}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") >> 1


@contextmanager
def _reserving(process: Process, asked: list[Asked]) -> Iterator[None]:
    """Meanwhile the process generates, and no other generation of it may have these tokens."""
    num_tokens = sum(one.recording.max_tokens for one in asked)
    process.num_generating += 1
    process.num_reserved_tokens += num_tokens
    try:
        yield
    finally:
        process.num_generating -= 1
        process.num_reserved_tokens -= num_tokens


async def _run(
    trap: Trap, call: Generate, driver: Driver, asked: list[Asked], *, is_strict: bool
) -> list[Finished]:
    """All branches side by side; the first that fails ends the others."""
    if len(asked) == 1:
        return [await _stream(trap, call, driver, asked[0], is_strict=is_strict)]
    finished: dict[int, Finished] = {}

    async def run(index: int, one: Asked) -> None:
        finished[index] = await _stream(trap, call, driver, one, is_strict=is_strict)

    async with side_by_side() as tasks:
        for index, one in enumerate(asked):
            tasks.start_soon(run, index, one)
    return [finished[index] for index in range(len(asked))]


def announce_load(process: Process, name: str, model: Model) -> Callable[[], None]:
    """What says, once to every person who waits for a model, that it is being loaded."""

    def announce() -> None:
        if process.terminal not in model.watching:
            model.watching.add(process.terminal)
            process.terminal.emit(Notice(f"loading model {name}"))

    return announce


def _decide_max_tokens(trap: Trap, call: Generate) -> int:
    """No more tokens a branch than the process may make beside its other generations. E_LIMIT."""
    process = trap.process
    max_tokens = call.sampling.max_tokens or trap.machine.config.max_tokens_default
    budget = process.capabilities.generate.max_tokens
    if budget is None:
        return max_tokens
    left = budget - process.completion_tokens - process.num_reserved_tokens
    if left < call.n:
        raise E_LIMIT(f"all of the {budget} tokens of generate.max_tokens are used or under way")
    return min(left // call.n, max_tokens)


async def _stream(
    trap: Trap, call: Generate, driver: Driver, asked: Asked, *, is_strict: bool
) -> Finished:
    """Pass text on as it comes. A cancel leaves what came in `trap.partial`."""
    process, recording = trap.process, asked.recording
    try:
        async with (
            telling(trap, call, recording, is_strict=is_strict) as hear,
            aclosing(driver.generate(asked.job)) as items,
        ):
            async for item in items:
                if isinstance(item, Finished):
                    return item
                if isinstance(item, Note):
                    process.terminal.emit(Notice(item.text))
                else:
                    await hear(item)
    except anyio.get_cancelled_exc_class():
        trap.partial = recording.text
        process.completion_tokens += recording.num_tokens
        raise
    raise AssertionError("a driver's last item is Finished")


def _finish(
    trap: Trap, call: Generate, name: str, asked: list[Asked], answers: list[Finished]
) -> Effect:
    """Keep the rest of what was shown as output, in one transaction with the result."""
    process, first = trap.process, answers[0]
    usage = msgspec.structs.replace(
        first.usage, completion_tokens=sum(one.usage.completion_tokens for one in answers)
    )
    process.prompt_tokens += usage.prompt_tokens
    process.completion_tokens += usage.completion_tokens
    seeds = [one.job.sampling.seed or 0 for one in asked]
    choices = [
        Choice(one.text, one.tool_calls, one.finish_reason, seed, one.logprobs)
        for one, seed in zip(answers, seeds, strict=True)
    ]
    reply = Generation(
        first.text,
        first.tool_calls,
        first.finish_reason,
        usage,
        name,
        seeds[0],
        first.logprobs,
        tuple(choices[1:]),
        all(one.recording.is_exact for one in asked),
    )
    rest = first.text[asked[0].recording.num_kept_chars :] if call.show else ""

    def apply(connection: Connection) -> Generation:
        if rest:
            append_output(connection, process.pid, rest, (trap.strand, trap.seq))
        return reply

    return Effect(apply)
