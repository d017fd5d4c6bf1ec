"""A generation that is cut off goes on after its last durable token, and nothing shows it."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anyio
import msgspec
import pytest

from llmos.kernel.capability import Capabilities
from llmos.kernel.drivers.driver import Finished, GenerationJob, TextDelta
from llmos.kernel.drivers.echo import EchoDriver
from llmos.kernel.machine import Machine
from llmos.kernel.process import Process
from llmos.kernel.protocol import Output
from llmos.kernel.replay import count_tokens
from llmos.kernel.terminal import Terminal
from llmos.memory.chunks import find_begun
from llmos.memory.db import Connection
from llmos.memory.journal import append_output, load, read_output
from llmos.syscalls.generate import Generate, Generation
from llmos.syscalls.memory import ContextCreate
from llmos.syscalls.table import BY_REQUEST
from llmos.syscalls.types import Message, Sampling
from llmos.syscalls.wire import (
    PROTOCOL_VERSION,
    Cancel,
    Chunk,
    Failure,
    FrameStream,
    FromKernel,
    Hello,
    Reply,
    Request,
    encode,
)

from .conftest import EVERYTHING, TOKEN, make_process, open_gate

pytestmark = pytest.mark.anyio
WORDS = " ".join(f"w{number}" for number in range(60))
NUM_BEFORE = 40  # words, at which a generation is cut off: one whole chunk and a part
Ending = Literal["cut", "cancel"]
_decoder = msgspec.msgpack.Decoder(FromKernel)


class Engine(EchoDriver):
    """The echo driver, which remembers what it was asked, and may be another one after a while."""

    def __init__(self, fingerprint: str = "echo-1") -> None:
        super().__init__()
        self.info = msgspec.structs.replace(self.info, fingerprint=fingerprint)
        self.jobs: list[GenerationJob] = []

    async def generate(self, job: GenerationJob) -> AsyncGenerator[TextDelta | Finished, None]:
        self.jobs.append(job)
        async for item in super().generate(job):
            yield item

    @property
    def nums_emitted(self) -> list[int]:
        """How many tokens each generation began with."""
        return [len(job.emitted.tokens) if job.emitted else 0 for job in self.jobs]


def install(machine: Machine, fingerprint: str = "echo-1") -> Engine:
    """Make `echo` this engine from now on."""
    engine, model = Engine(fingerprint), machine.models.get("echo")
    model.driver, model.info = engine, engine.info
    return engine


def ask(
    text: str = WORDS,
    *,
    stream: bool = True,
    show: bool = False,
    n: int = 1,
    max_tokens: int | None = None,
) -> Generate:
    sampling = Sampling(max_tokens=max_tokens)
    messages = (Message("user", f"!slow 1 {text}"),)
    return Generate(messages, sampling=sampling, stream=stream, show=show, n=n)


@dataclass
class Life:
    """What an app hears in one life."""

    text: str = ""
    answer: Generation | None = None
    failure: str = ""


async def live(
    machine: Machine,
    process: Process,
    *calls: msgspec.Struct,
    num_words: int | None = None,
    ending: Ending = "cut",
) -> Life:
    """Make calls one after another; after so many words of the last one, be cut off or cancel."""
    life = Life()
    async with open_gate(machine, process) as stream:
        frames = FrameStream(stream)
        await frames.send(Hello(PROTOCOL_VERSION, process.pid, TOKEN))
        await frames.receive()
        for seq, call in enumerate(calls):
            name = BY_REQUEST[type(call)].name
            await frames.send(Request("0", seq, name, msgspec.Raw(encode(call))))
            while (frame := _decoder.decode(await frames.receive())) and isinstance(frame, Chunk):
                life.text += frame.text
                if num_words is not None and len(life.text.split()) >= num_words:
                    if ending == "cut":
                        return life
                    await frames.send(Cancel("0", seq))
            if isinstance(frame, Failure):
                life.failure = frame.error.code
            elif isinstance(frame, Reply) and isinstance(call, Generate):
                life.answer = msgspec.msgpack.decode(frame.value, type=Generation)
    return life


async def come_back(machine: Machine, process: Process) -> None:
    """What a kernel does that finds the process."""
    await machine.db.flush()
    rows, output = await load(machine.db, process.pid), await read_output(machine.db, process.pid)
    process.begin_again(rows, count_tokens(rows), len(output))


async def read_events(terminal: Terminal) -> str:
    """All text that a person has been shown."""
    terminal.close()
    text = ""
    while (event := await terminal.next_event()) is not None:
        text += event.text if isinstance(event, Output) else ""
    return text


async def count_chunks(machine: Machine, process: Process) -> int:
    await machine.db.flush()
    return sum(
        len(begun.chunks) for begun in (await find_begun(machine.db, process.pid, "0", 0)).values()
    )


async def damage(machine: Machine, place: str) -> None:
    sql = f"UPDATE chunk SET checksum = x'00' WHERE {place}"
    await machine.db.write(lambda connection: connection.exec_driver_sql(sql).rowcount)


async def test_it_goes_on_after_what_is_durable_and_answers_as_if_undisturbed(
    machine: Machine, tmp_path: Path
) -> None:
    engine = install(machine)
    process, other = await make_process(machine, tmp_path), await make_process(machine, tmp_path)
    before = await live(machine, process, ask(), num_words=NUM_BEFORE)
    await come_back(machine, process)

    after = await live(machine, process, ask())

    undisturbed = await live(machine, other, ask())
    assert after.answer is not None
    assert undisturbed.answer is not None
    assert after.answer == msgspec.structs.replace(undisturbed.answer, seed=process.seed("0", 0))
    assert after.text == undisturbed.text == WORDS
    assert before.text == WORDS[: len(before.text)]
    assert engine.nums_emitted[0] == engine.nums_emitted[2] == 0
    assert engine.nums_emitted[1] >= NUM_BEFORE
    assert process.completion_tokens == 60


async def test_without_its_chunks_it_begins_anew(machine: Machine, tmp_path: Path) -> None:
    """The control: what the check above sees is the work of the chunks."""
    engine, process = install(machine), await make_process(machine, tmp_path)
    await live(machine, process, ask(), num_words=NUM_BEFORE)
    await come_back(machine, process)
    await machine.db.write(lambda connection: connection.exec_driver_sql("DELETE FROM chunk"))

    after = await live(machine, process, ask())

    assert after.text == WORDS
    assert engine.nums_emitted == [0, 0]


async def test_it_may_be_cut_off_again_and_again(machine: Machine, tmp_path: Path) -> None:
    engine, process = install(machine), await make_process(machine, tmp_path)
    for num_words in (5, 20, 35, 50):
        await live(machine, process, ask(), num_words=num_words)
        await come_back(machine, process)

    after = await live(machine, process, ask())

    assert after.text == WORDS
    assert engine.nums_emitted == sorted(engine.nums_emitted)
    assert engine.nums_emitted[-1] >= 50


async def test_one_that_had_finished_is_streamed_again_as_a_whole(
    machine: Machine, tmp_path: Path
) -> None:
    engine, process = install(machine), await make_process(machine, tmp_path)
    before = await live(machine, process, ask())
    await come_back(machine, process)

    after = await live(machine, process, ask())

    assert after == before
    assert after.text == WORDS
    assert len(engine.jobs) == 1


async def test_its_chunks_go_with_its_ending(machine: Machine, tmp_path: Path) -> None:
    endings: list[tuple[Ending, int | None]] = [("cancel", NUM_BEFORE), ("cut", None)]
    for ending, num_words in endings:
        process = await make_process(machine, tmp_path)
        await live(machine, process, ask(), num_words=NUM_BEFORE)
        kept = await count_chunks(machine, process)
        await come_back(machine, process)

        life = await live(machine, process, ask(), num_words=num_words, ending=ending)

        assert kept > 0
        assert await count_chunks(machine, process) == 0
        assert life.failure == ("E_CANCELLED" if ending == "cancel" else "")


async def test_what_was_shown_is_not_shown_again_and_is_output_once(
    machine: Machine, tmp_path: Path
) -> None:
    process = await make_process(machine, tmp_path)
    first = process.terminal = Terminal()
    await live(machine, process, ask(show=True), num_words=NUM_BEFORE)
    await come_back(machine, process)
    second = process.terminal = Terminal()

    await live(machine, process, ask(show=True))

    assert await read_events(first) + await read_events(second) == WORDS
    assert await read_output(machine.db, process.pid) == WORDS
    assert process.num_printed_chars == len(WORDS)


async def test_output_of_others_between_its_parts_stays_where_it_was(
    machine: Machine, tmp_path: Path
) -> None:
    process = await make_process(machine, tmp_path)
    await live(machine, process, ask(show=True), num_words=NUM_BEFORE)
    await machine.db.write(lambda connection: append_output(connection, process.pid, "<other>"))
    await come_back(machine, process)

    await live(machine, process, ask(show=True))

    output = await read_output(machine.db, process.pid)
    assert output.replace("<other>", "") == WORDS
    assert not output.endswith("<other>")


async def test_a_damaged_chunk_is_made_again_and_not_shown_twice(
    machine: Machine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine, process = install(machine), await make_process(machine, tmp_path)
    await live(machine, process, ask(show=True), num_words=NUM_BEFORE)
    await come_back(machine, process)
    await damage(machine, "first_token = 0")
    terminal = process.terminal = Terminal()

    after = await live(machine, process, ask(show=True))

    assert after.text == WORDS
    assert await read_output(machine.db, process.pid) == WORDS
    assert len((await read_events(terminal)).split()) <= 60 - NUM_BEFORE
    assert engine.nums_emitted == [0, 0]
    assert "damaged; made again from token 0 on" in caplog.text


async def test_branches_go_on_each_after_its_own_tokens(machine: Machine, tmp_path: Path) -> None:
    engine, process = install(machine), await make_process(machine, tmp_path)
    call = ask(stream=False, n=3)
    async with open_gate(machine, process) as stream:
        frames = FrameStream(stream)
        await frames.send(Hello(PROTOCOL_VERSION, process.pid, TOKEN))
        await frames.send(Request("0", 0, "generate", msgspec.Raw(encode(call))))
        with anyio.fail_after(10):
            while await count_chunks(machine, process) < 3:
                pass
    await come_back(machine, process)
    await damage(machine, "branch = 1")

    after = await live(machine, process, call)

    assert after.answer is not None
    assert [choice.text for choice in after.answer.choices] == [WORDS] * 3
    assert after.answer.usage.completion_tokens == 180
    assert [num > 0 for num in engine.nums_emitted[3:]] == [True, False, True]


async def test_other_weights_go_on_and_the_answer_says_so(machine: Machine, tmp_path: Path) -> None:
    for fingerprint, is_exact in (("echo-1", True), ("echo-2", False)):
        install(machine)
        process = await make_process(machine, tmp_path)
        await live(machine, process, ask(), num_words=NUM_BEFORE)
        await come_back(machine, process)
        engine = install(machine, fingerprint)

        after = await live(machine, process, ask())

        assert after.answer is not None
        assert (after.answer.exact, after.text) == (is_exact, WORDS)
        assert engine.nums_emitted[0] >= NUM_BEFORE


async def test_that_two_engines_made_it_is_not_forgotten_by_a_third(
    machine: Machine, tmp_path: Path
) -> None:
    process = await make_process(machine, tmp_path)
    for fingerprint, num_words in (("echo-1", 20), ("echo-2", 30), ("echo-1", 40)):
        install(machine, fingerprint)
        await live(machine, process, ask(), num_words=num_words)
        await come_back(machine, process)

    after = await live(machine, process, ask())

    assert after.answer is not None
    assert not after.answer.exact


async def test_another_prompt_is_not_exact(machine: Machine, tmp_path: Path) -> None:
    process = await make_process(machine, tmp_path)
    create = ContextCreate((Message("system", "be brief"),))
    call = msgspec.structs.replace(ask(), context=1)
    await live(machine, process, create, call, num_words=NUM_BEFORE)
    await come_back(machine, process)

    def grow(connection: Connection) -> None:
        from llmos.memory.contexts import append

        append(connection, process.pid, 1, (Message("user", "more"),))

    await machine.db.write(grow)
    after = await live(machine, process, create, call)

    assert after.answer is not None
    assert not after.answer.exact


async def test_it_may_make_as_many_tokens_as_it_could_at_first(
    machine: Machine, tmp_path: Path
) -> None:
    process = await make_process(machine, tmp_path)
    await live(machine, process, ask(), num_words=NUM_BEFORE)
    await come_back(machine, process)
    machine.config = msgspec.structs.replace(machine.config, max_tokens_default=10)

    after = await live(machine, process, ask())

    assert after.text == WORDS


def with_budget(max_tokens: int) -> Capabilities:
    rule = msgspec.structs.replace(EVERYTHING.generate, max_tokens=max_tokens)
    return msgspec.structs.replace(EVERYTHING, generate=rule)


async def test_its_tokens_count_once(machine: Machine, tmp_path: Path) -> None:
    process = await make_process(machine, tmp_path, with_budget(70))
    await live(machine, process, ask(), num_words=NUM_BEFORE)
    await come_back(machine, process)

    first = await live(machine, process, ask(), ask("a b c d e f g h i j k l"))

    assert first.answer is not None
    assert (first.answer.text, first.answer.finish_reason) == ("a b c d e f g h i j", "length")


async def watch(machine: Machine, process: Process, call: Generate) -> tuple[int, int]:
    """How many events a person saw of a call, and how many before they were durable."""
    terminal = process.terminal = Terminal()
    seen, num_events, num_early = "", 0, 0

    async def look() -> None:
        nonlocal seen, num_events, num_early
        while (event := await terminal.next_event()) is not None:
            if isinstance(event, Output):
                seen += event.text
                num_events += 1
                num_early += not (await read_output(machine.db, process.pid)).startswith(seen)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look)
        await live(machine, process, call)
        terminal.close()
    assert seen == WORDS
    return num_events, num_early


@pytest.mark.parametrize(
    ("output_commit", "fingerprint", "is_strict"),
    [("strict", "echo-1", True), ("fast", "", True), ("fast", "echo-1", False)],
)
async def test_strictly_nothing_is_shown_before_it_is_durable(
    machine: Machine, tmp_path: Path, output_commit: str, fingerprint: str, is_strict: bool
) -> None:
    machine.config = msgspec.structs.replace(machine.config, output_commit=output_commit)
    install(machine, fingerprint)
    process = await make_process(machine, tmp_path)

    num_events, num_early = await watch(machine, process, ask(show=True))

    assert (num_early == 0) == is_strict
    assert num_events > 10
    assert await read_output(machine.db, process.pid) == WORDS


async def test_strict_text_comes_in_larger_parts_rather_than_later(
    machine: Machine, tmp_path: Path
) -> None:
    machine.config = msgspec.structs.replace(machine.config, output_commit="strict")
    process = await make_process(machine, tmp_path)
    call = Generate((Message("user", WORDS),), stream=True, show=True)

    num_events, _ = await watch(machine, process, call)

    assert num_events < 30


async def test_strict_text_goes_on_where_it_was_cut_off(machine: Machine, tmp_path: Path) -> None:
    machine.config = msgspec.structs.replace(machine.config, output_commit="strict")
    engine, process = install(machine), await make_process(machine, tmp_path)
    await live(machine, process, ask(show=True), num_words=NUM_BEFORE)
    await come_back(machine, process)

    after = await live(machine, process, ask(show=True))

    assert after.text == WORDS
    assert await read_output(machine.db, process.pid) == WORDS
    assert engine.nums_emitted[1] >= NUM_BEFORE
