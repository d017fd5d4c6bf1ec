"""Generation: `generate`."""

import hashlib
from collections.abc import Callable
from contextlib import aclosing

import anyio
import msgspec
from msgspec.structs import replace

from llmos.memory.db import Connection
from llmos.memory.journal import append_output
from llmos.syscalls.errors import E_ARG, E_LIMIT
from llmos.syscalls.generate import Choice, Generate, Generation
from llmos.syscalls.tasks import side_by_side

from ..drivers.driver import Driver, Finished, GenerationJob, Note
from ..models import Model
from ..process import Process
from ..protocol import Notice, Output
from ..sampling import override
from .trap import Effect, Trap

MAX_SCORES = 16_384


async def sys_generate(trap: Trap, call: Generate) -> Effect:
    """Run a generation; its text is streamed to the app or the output as it comes."""
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
    max_tokens = _decide_max_tokens(trap, call)
    seed = call.sampling.seed
    if seed is None:
        seed = process.seed(trap.strand, trap.seq)
    seeds = [derive_seed(seed, branch) for branch in range(call.n)]
    jobs = [
        GenerationJob(
            messages,
            tools,
            msgspec.structs.replace(call.sampling, seed=one, max_tokens=max_tokens),
            process.pid,
            process.tenant,
            call.grammar,
            call.tool_choice,
            machine.table.find_root(process),
        )
        for one in seeds
    ]
    process.num_generating += 1
    process.num_reserved_tokens += max_tokens * call.n
    try:
        announce = announce_load(process, name, machine.models.get(name))
        async with machine.models.using(name, announce) as driver:
            branches = await _run(trap, call, driver, jobs)
    finally:
        process.num_generating -= 1
        process.num_reserved_tokens -= max_tokens * call.n
    return _finish(trap, call, name, branches, seeds)


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


def derive_seed(seed: int, branch: int) -> int:
    """The seed of a branch: the first has the call's own, the others one of (seed, branch)."""
    if branch == 0:
        return seed
    name = f"{seed}/{branch}".encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") >> 1


async def _run(
    trap: Trap, call: Generate, driver: Driver, jobs: list[GenerationJob]
) -> list[Finished]:
    """All branches side by side; the first that fails ends the others."""
    if len(jobs) == 1:
        return [await _stream(trap, call, driver, jobs[0])]
    finished: dict[int, Finished] = {}

    async def run(index: int, job: GenerationJob) -> None:
        finished[index] = await _stream(trap, call, driver, job)

    async with side_by_side() as tasks:
        for index, job in enumerate(jobs):
            tasks.start_soon(run, index, job)
    return [finished[index] for index in range(len(jobs))]


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


async def _stream(trap: Trap, call: Generate, driver: Driver, job: GenerationJob) -> Finished:
    """Pass text on as it comes. A cancel leaves what came in `trap.partial`."""
    process, parts, num_tokens = trap.process, list[str](), 0
    try:
        async with aclosing(driver.generate(job)) as deltas:
            async for delta in deltas:
                if isinstance(delta, Finished):
                    return delta
                if isinstance(delta, Note):
                    process.terminal.emit(Notice(delta.text))
                    continue
                parts.append(delta.text)
                num_tokens = delta.num_tokens
                if call.stream:
                    await trap.send_text(delta.text)
                if call.show:
                    process.terminal.emit(Output(process.pid, delta.text))
                    await process.terminal.wait_for_room()
    except anyio.get_cancelled_exc_class():
        trap.partial = "".join(parts)
        process.completion_tokens += num_tokens
        if call.show:
            _keep_shown(trap, trap.partial)
        raise
    raise AssertionError("a driver's last item is Finished")


def _keep_shown(trap: Trap, text: str) -> None:
    """What a cancelled generation has shown is output all the same."""
    pid, where = trap.process.pid, (trap.strand, trap.seq)
    trap.process.num_printed_chars += len(text)
    trap.machine.db.write_nowait(lambda connection: append_output(connection, pid, text, where))


def _finish(
    trap: Trap, call: Generate, name: str, branches: list[Finished], seeds: list[int]
) -> Effect:
    """Keep what was shown as output, in one transaction with the result."""
    process, first = trap.process, branches[0]
    usage = msgspec.structs.replace(
        first.usage, completion_tokens=sum(one.usage.completion_tokens for one in branches)
    )
    process.prompt_tokens += usage.prompt_tokens
    process.completion_tokens += usage.completion_tokens
    choices = [
        Choice(one.text, one.tool_calls, one.finish_reason, seed, one.logprobs)
        for one, seed in zip(branches, seeds, strict=True)
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
    )

    def apply(connection: Connection) -> Generation:
        if call.show:
            append_output(connection, process.pid, first.text, (trap.strand, trap.seq))
        return reply

    process.num_printed_chars += len(first.text) if call.show else 0
    return Effect(apply)
