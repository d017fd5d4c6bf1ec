"""The local driver, with a real executor process and a tiny random model."""

import os
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from signal import SIGKILL, SIGSTOP

import anyio
import msgspec
import pytest

from llmos.kernel.drivers.driver import (
    Emitted,
    Finished,
    GenerationJob,
    Note,
    TextDelta,
    have_same_tokens,
)
from llmos.kernel.drivers.life import LIMITS, Limits
from llmos.kernel.drivers.local import LocalDriver
from llmos.kernel.executor.protocol import Loaded
from llmos.syscalls.errors import E_CANCELLED, E_CONTEXT, E_MODEL
from llmos.syscalls.types import Message, Sampling

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


MakeCopy = Callable[[str], Path]


def make_job(
    text: str, num_tokens: int, *, pid: int = 1, seed: int = 3, temperature: float = 0.8
) -> GenerationJob:
    sampling = Sampling(max_tokens=num_tokens, temperature=temperature, seed=seed)
    return GenerationJob((Message("user", text),), sampling=sampling, pid=pid)


async def read_all(
    driver: LocalDriver,
    job: GenerationJob,
    *,
    at_first_delta: Callable[[], None] = lambda: None,
    at_every_delta: Callable[[], None] = lambda: None,
    notes: list[str] | None = None,
) -> tuple[str, Finished]:
    text, num_deltas = "", 0
    async for event in driver.generate(job):
        match event:
            case Finished():
                return text, event
            case Note():
                (notes if notes is not None else []).append(event.text)
            case TextDelta():
                num_deltas += 1
                if num_deltas == 1:
                    at_first_delta()
                at_every_delta()
                text += event.text
    raise AssertionError("no Finished")


def send(driver: LocalDriver, signal: int) -> None:
    """Send the executor a signal, if it lives."""
    if driver.process_id:
        os.kill(driver.process_id, signal)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "executor.log"


async def test_a_generation_streams_its_text_and_finishes(driver: LocalDriver) -> None:
    info = await driver.start()
    text, finished = await read_all(driver, make_job("hello", 8))

    assert (info.driver, info.dtype, info.max_model_len) == ("local", "float32", 512)
    assert text == finished.text
    assert 0 < finished.usage.completion_tokens <= 8


async def test_a_request_past_the_window_is_refused_and_the_next_one_runs(
    driver: LocalDriver,
) -> None:
    with pytest.raises(E_CONTEXT, match="512"):
        await read_all(driver, make_job("word " * 2000, 8))

    assert (await read_all(driver, make_job("hello", 2)))[1].usage.prompt_tokens > 0


async def test_a_closed_generation_leaves_the_driver_usable(driver: LocalDriver) -> None:
    async with aclosing(driver.generate(make_job("hello", 400))) as events:
        assert isinstance(await anext(events), TextDelta)

    assert (await read_all(driver, make_job("hello", 2)))[0]


async def test_a_paused_process_waits_while_others_go_on(driver: LocalDriver) -> None:
    driver.pause(7)
    texts: dict[int, str] = {}

    async def run(pid: int) -> None:
        texts[pid] = (await read_all(driver, make_job("hello", 4, pid=pid)))[0]

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, 7)
        await run(8)
        assert 7 not in texts
        driver.resume(7)

    assert texts[7] == texts[8]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
async def test_a_generation_goes_on_exactly_where_its_executor_died(
    driver: LocalDriver, temperature: float
) -> None:
    job = make_job("tell me more", 300, temperature=temperature)
    whole, uninterrupted = await read_all(driver, job)

    text, finished = await read_all(driver, job, at_first_delta=lambda: send(driver, SIGKILL))

    assert (text, finished.text) == (whole, whole)
    assert finished.usage.completion_tokens == uninterrupted.usage.completion_tokens
    assert finished.finish_reason == uninterrupted.finish_reason


async def test_a_stop_string_is_found_on_the_border_of_two_executors(driver: LocalDriver) -> None:
    job = make_job("tell me more", 300)
    whole, _ = await read_all(driver, job)
    stop = whole[len(whole) // 2 :][:40]
    sampling = msgspec.structs.replace(job.sampling, stop=(stop,))

    text, finished = await read_all(
        driver,
        msgspec.structs.replace(job, sampling=sampling),
        at_first_delta=lambda: send(driver, SIGKILL),
    )

    assert (text, finished.finish_reason) == (whole[: whole.index(stop)], "stop")


async def test_the_generation_that_kills_twice_is_an_error_and_the_others_complete(
    driver: LocalDriver,
) -> None:
    jobs = [make_job("tell me more", 300, pid=pid, seed=pid) for pid in range(2, 5)]
    whole = [(await read_all(driver, job))[0] for job in jobs]
    texts: dict[int, str] = {}

    async def run(job: GenerationJob) -> None:
        texts[job.pid] = (await read_all(driver, job))[0]

    async with anyio.create_task_group() as tasks:
        for job in jobs:
            tasks.start_soon(run, job)
        with pytest.raises(E_MODEL, match="signal 9"):
            await read_all(
                driver,
                make_job("poison", 400, seed=5),
                at_every_delta=lambda: send(driver, SIGKILL),
            )

    assert [texts[job.pid] for job in jobs] == whole


async def test_a_generation_that_is_paused_over_a_death_goes_on(driver: LocalDriver) -> None:
    job = make_job("tell me more", 300)
    whole, _ = await read_all(driver, job)

    def pause_and_kill() -> None:
        driver.pause(job.pid)
        send(driver, SIGKILL)

    async with anyio.create_task_group() as tasks:

        async def resume_later() -> None:
            await read_all(driver, make_job("hello", 4, pid=9))
            driver.resume(job.pid)

        tasks.start_soon(resume_later)
        text, _ = await read_all(driver, job, at_first_delta=pause_and_kill)

    assert text == whole


def change_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")


def change_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(path.read_text() + "\n")


async def test_other_weights_go_on_with_a_text_and_it_is_known(
    make_copy: MakeCopy, log: Path
) -> None:
    folder, fingerprints = make_copy("qwen3"), list[str]()
    driver = LocalDriver(str(folder), log=log)

    def change_and_kill() -> None:
        change_weights(folder)
        send(driver, SIGKILL)

    async with aclosing(driver):
        async for item in driver.generate(make_job("tell me more", 200)):
            if isinstance(item, TextDelta):
                if not fingerprints:
                    change_and_kill()
                fingerprints.append(item.fingerprint)

    first, last = fingerprints[0], fingerprints[-1]
    assert first != last
    assert have_same_tokens(first, last)


async def test_a_text_is_not_continued_by_another_tokenizer(make_copy: MakeCopy, log: Path) -> None:
    folder = make_copy("qwen3")
    driver = LocalDriver(str(folder), log=log)

    def change_and_kill() -> None:
        change_tokenizer(folder)
        send(driver, SIGKILL)

    async with aclosing(driver):
        with pytest.raises(E_MODEL, match="tokenizer changed") as caught:
            await read_all(driver, make_job("tell me more", 400), at_first_delta=change_and_kill)

        assert caught.value.partial
        assert (await read_all(driver, make_job("hello", 2)))[0]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
async def test_what_another_kernel_began_is_continued_exactly(
    driver: LocalDriver, temperature: float
) -> None:
    job = make_job("tell me more", 60, temperature=temperature)
    job = msgspec.structs.replace(
        job, sampling=msgspec.structs.replace(job.sampling, logprobs=1, stop=("zzzz",))
    )
    *deltas, whole = [item async for item in driver.generate(job)]
    told = [item for item in deltas if isinstance(item, TextDelta)]

    for size in (1, len(told) // 2, len(told) - 1, len(told)):
        emitted = join(told[:size])
        *rest, finished = [
            item async for item in driver.generate(msgspec.structs.replace(job, emitted=emitted))
        ]
        assert describe(finished) == describe(whole)
        assert emitted.text + "".join(one.text for one in rest if isinstance(one, TextDelta)) == (
            whole.text if isinstance(whole, Finished) else ""
        )


def join(deltas: list[TextDelta]) -> Emitted:
    return Emitted(
        tuple(token for one in deltas for token in one.tokens),
        "".join(one.text for one in deltas),
        deltas[-1].fingerprint,
        tuple(score for one in deltas for score in one.logprobs),
    )


def describe(finished: object) -> tuple[object, ...]:
    """A result, but for what was cached and for how logits of a prefill differ from a decode's."""
    assert isinstance(finished, Finished)
    tokens = tuple(one.chosen.token for one in finished.logprobs)
    return finished.text, tokens, finished.finish_reason, finished.usage.completion_tokens


async def test_closing_ends_what_runs(qwen3: Path, log: Path) -> None:
    driver = LocalDriver(str(qwen3), log=log)

    async with anyio.create_task_group() as tasks:

        def close() -> None:
            tasks.start_soon(driver.aclose)

        with pytest.raises(E_CANCELLED):
            await read_all(driver, make_job("tell me more", 400), at_first_delta=close)

    assert driver.process_id is None


async def test_a_model_that_leaves_while_its_executor_is_started_again_is_gone(
    qwen3: Path, log: Path
) -> None:
    async with aclosing(LocalDriver(str(qwen3), log=log)) as driver:
        async with aclosing(driver.generate(make_job("tell me more", 400))) as events:
            await anext(events)
            send(driver, SIGKILL)
            while not isinstance(await anext(events), Note):
                pass  # that it is started again
        restart = driver._restarting

        await driver.unload()

        assert restart
        assert restart.done()
        assert driver.process_ids == ()
        assert (await read_all(driver, make_job("hello", 2)))[0]


async def test_an_executor_that_hangs_is_replaced_and_its_generation_goes_on(
    qwen3: Path, log: Path
) -> None:
    job = make_job("tell me more", 300)
    driver = LocalDriver(str(qwen3), log=log, limits=Limits(step_seconds=2))
    async with aclosing(driver):
        whole, _ = await read_all(driver, job)
        notes: list[str] = []

        text, _ = await read_all(
            driver, job, at_first_delta=lambda: send(driver, SIGSTOP), notes=notes
        )

    assert text == whole
    assert [("no step for 2 s" in note, "\n" in note) for note in notes] == [(True, False)]


async def test_an_idle_executor_is_not_taken_for_a_hanging_one(qwen3: Path, log: Path) -> None:
    driver = LocalDriver(str(qwen3), log=log, limits=Limits(step_seconds=0.2))
    async with aclosing(driver):
        await driver.start()
        before = driver.process_id
        await anyio.sleep(0.6)

        await read_all(driver, make_job("hello", 4))

        assert driver.process_id == before


async def test_a_load_that_hangs_is_an_error(qwen3: Path, log: Path) -> None:
    driver = LocalDriver(str(qwen3), log=log, limits=Limits(load_seconds=0.001))

    with pytest.raises(E_MODEL, match=r"did not load within .* s"):
        await driver.start()


async def test_a_conversation_larger_than_a_frame_names_its_size_and_the_maximum(
    driver: LocalDriver,
) -> None:
    one, many = (Message("user", "x" * (17 << 20)),), (Message("user", "x" * 1_000_000),) * 18

    for messages in (one, many):
        with pytest.raises(E_CONTEXT, match=r"has 1[78]\d{6} bytes.*takes 167\d{5}.*512 tokens"):
            await read_all(driver, GenerationJob(messages))

    assert (await read_all(driver, make_job("hello", 2)))[0]


async def test_a_model_without_a_chat_template_says_so_once(make_copy: MakeCopy, log: Path) -> None:
    folder = make_copy("qwen3")
    (folder / "chat_template.jinja").unlink()
    driver, notes = LocalDriver(str(folder), log=log), list[str]()

    async with aclosing(driver):
        for _ in range(2):
            await read_all(driver, make_job("hello", 2), notes=notes)

    assert len(notes) == 1
    assert "no chat template" in notes[0]


async def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path: Path, log: Path) -> None:
    driver = LocalDriver(str(tmp_path / "nowhere"), log=log)

    with pytest.raises(E_MODEL, match=r"no folder .*; fix:"):
        await driver.start()


def test_the_limits_grow_with_the_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(2_000_000))
    loaded = Loaded("m", "A", 8_000_000_000, 512, 16, 64, "", "cpu", "float32", 1.0)

    assert LIMITS.count_load_seconds(str(tmp_path)) == 300.1
    assert LIMITS.count_load_seconds("org/name") is None
    assert LIMITS.count_step_seconds(loaded) == 140


async def test_a_model_that_is_not_loaded_has_no_counts(qwen3: Path, log: Path) -> None:
    driver = LocalDriver(str(qwen3), log=log)

    assert await driver.collect_stats() == ()
    assert await driver.trace(0.01) is None


async def test_its_counts_and_steps_are_told_while_it_works(driver: LocalDriver) -> None:
    await driver.start()
    traces = []

    async def trace() -> None:
        traces.append(await driver.trace(1.0))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(trace)
        tasks.start_soon(trace)
        await read_all(driver, make_job("hello", 8))
        (stats,) = await driver.collect_stats()

    assert stats
    assert stats.num_tokens["prefill"] > 0
    assert [len(one.steps) > 0 for one in traces if one] == [True, False]


async def test_a_trace_that_is_given_up_does_not_block_the_next_one(driver: LocalDriver) -> None:
    await driver.start()

    with anyio.move_on_after(0.05):
        await driver.trace(600)
    trace = await driver.trace(0.01)

    assert trace
    assert trace.steps == ()


async def test_who_asks_an_executor_that_dies_gets_an_error(driver: LocalDriver) -> None:
    await driver.start()
    send(driver, SIGSTOP)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep, 0)

        async def ask() -> None:
            with pytest.raises(E_MODEL, match="ended"):
                await driver.collect_stats()

        tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        send(driver, SIGKILL)
