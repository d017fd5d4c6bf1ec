"""Generation: `generate`."""

from contextlib import aclosing

import anyio
import msgspec

from llmos.memory.db import Connection
from llmos.memory.journal import append_output
from llmos.syscalls.errors import E_ARG, E_LIMIT
from llmos.syscalls.generate import Generate, Generation
from llmos.syscalls.types import Sampling

from ..drivers.driver import Finished, GenerationJob
from ..models import Model
from ..process import Process
from ..protocol import Notice, Output
from .trap import Effect, Trap


async def sys_generate(trap: Trap, call: Generate) -> Effect:
    """Run a generation; its text is streamed to the app or the output as it comes."""
    machine, process = trap.machine, trap.process
    name = call.model or process.model
    messages = call.messages
    if call.context is not None:
        messages = await machine.memory.context_read(process.pid, call.context) + messages
    if not messages:
        raise E_ARG("there is no message to answer", field="messages")
    tools = machine.tools.specs(call.tools)
    await trap.begin()
    max_tokens = _decide_max_tokens(trap, call.sampling)
    seed = call.sampling.seed
    if seed is None:
        seed = process.seed(trap.strand, trap.seq)
    sampling = msgspec.structs.replace(call.sampling, seed=seed, max_tokens=max_tokens)
    job = GenerationJob(messages, tools, sampling, process.pid, process.tenant)
    process.num_generating += 1
    process.num_reserved_tokens += max_tokens
    try:
        model = machine.models.get(name)
        await _load(process, name, model)
        finished = await _stream(trap, call, model, job)
    finally:
        process.num_generating -= 1
        process.num_reserved_tokens -= max_tokens
    return _finish(trap, call, name, finished, seed)


async def _load(process: Process, name: str, model: Model) -> None:
    """Load the model if it is not, and say so to whoever waits for it."""
    if model.info is None:
        process.terminal.emit(Notice(f"loading model {name}"))
        await model.load()


def _decide_max_tokens(trap: Trap, sampling: Sampling) -> int:
    """No more tokens than the process may still make beside its other generations. E_LIMIT."""
    process = trap.process
    max_tokens = sampling.max_tokens or trap.machine.config.max_tokens_default
    budget = process.capabilities.generate.max_tokens
    if budget is None:
        return max_tokens
    left = budget - process.completion_tokens - process.num_reserved_tokens
    if left < 1:
        raise E_LIMIT(f"all of the {budget} tokens of generate.max_tokens are used or under way")
    return min(left, max_tokens)


async def _stream(trap: Trap, call: Generate, model: Model, job: GenerationJob) -> Finished:
    """Pass text on as it comes. A cancel leaves what came in `trap.partial`."""
    process, parts, num_tokens = trap.process, list[str](), 0
    try:
        async with aclosing(model.driver.generate(job)) as deltas:
            async for delta in deltas:
                if isinstance(delta, Finished):
                    return delta
                parts.append(delta.text)
                num_tokens = delta.num_tokens
                if call.stream:
                    await trap.send_text(delta.text)
                if call.show:
                    process.terminal.emit(Output(process.pid, delta.text))
    except anyio.get_cancelled_exc_class():
        trap.partial = "".join(parts)
        process.completion_tokens += num_tokens
        if call.show:
            _keep_shown(trap, trap.partial)
        raise
    raise AssertionError("a driver's last item is Finished")


def _keep_shown(trap: Trap, text: str) -> None:
    """What a cancelled generation has shown is output all the same."""
    pid = trap.process.pid
    trap.process.num_printed_chars += len(text)
    trap.machine.db.write_nowait(lambda connection: append_output(connection, pid, text))


def _finish(trap: Trap, call: Generate, name: str, finished: Finished, seed: int) -> Effect:
    """Keep what was shown as output, in one transaction with the result."""
    process = trap.process
    process.prompt_tokens += finished.usage.prompt_tokens
    process.completion_tokens += finished.usage.completion_tokens
    reply = Generation(
        finished.text, finished.tool_calls, finished.finish_reason, finished.usage, name, seed
    )

    def apply(connection: Connection) -> Generation:
        if call.show:
            append_output(connection, process.pid, finished.text)
        return reply

    process.num_printed_chars += len(finished.text) if call.show else 0
    return Effect(apply)
