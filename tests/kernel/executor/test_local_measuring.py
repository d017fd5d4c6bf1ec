"""Scores, vectors and constrained answers through the local driver's executor process."""

import json
import os
from signal import SIGKILL

import anyio
import pytest

from llmos.kernel.drivers.driver import EmbedJob, Finished, GenerationJob, ScoreJob, TextDelta
from llmos.kernel.drivers.local import LocalDriver
from llmos.syscalls.errors import E_CONTEXT, E_GRAMMAR
from llmos.syscalls.types import Grammar, Message, Sampling

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
ASKED = (Message("user", "hello"),)
LIST = json.dumps({"type": "array", "items": {"type": "boolean"}, "minItems": 40, "maxItems": 40})


async def finish(driver: LocalDriver, job: GenerationJob, *, is_killed: bool = False) -> Finished:
    num_tokens = 0
    async for event in driver.generate(job):
        if isinstance(event, Finished):
            return event
        if isinstance(event, TextDelta):
            if is_killed and num_tokens < 10 <= event.num_tokens and driver.process_id:
                os.kill(driver.process_id, SIGKILL)
            num_tokens = event.num_tokens
    raise AssertionError("no Finished")


def make_job(kind: str, text: str) -> GenerationJob:
    sampling = Sampling(max_tokens=300, temperature=1.0, seed=2, logprobs=1)
    return GenerationJob(ASKED, sampling=sampling, grammar=Grammar(kind, text))  # type: ignore[arg-type]


async def test_scores_and_vectors_come_and_errors_are_typed(driver: LocalDriver) -> None:
    scored = await driver.score(ScoreJob(ASKED, ("one", "two")))
    embedded = await driver.embed(EmbedJob(("one", "two")))

    assert [len(tokens) > 0 for tokens in scored.tokens] == [True, True]
    assert [len(vector) for vector in embedded.vectors] == [4 * 64] * 2
    with pytest.raises(E_CONTEXT):
        await driver.embed(EmbedJob(("word " * 3000,)))


async def test_a_cancelled_score_leaves_the_driver_usable(driver: LocalDriver) -> None:
    await driver.start()
    with anyio.move_on_after(0.01):
        await driver.score(ScoreJob(ASKED, ("a long continuation " * 20,) * 64))

    assert await driver.score(ScoreJob(ASKED, ("one",)))


async def test_a_constrained_answer_survives_its_executor(driver: LocalDriver) -> None:
    whole = await finish(driver, make_job("json_schema", LIST))

    again = await finish(driver, make_job("json_schema", LIST), is_killed=True)

    assert len(json.loads(whole.text)) == 40
    assert (again.text, again.finish_reason) == (whole.text, "stop")
    told, expected = again.logprobs, whole.logprobs
    assert [one.chosen.token for one in told] == [one.chosen.token for one in expected]
    for one, other in zip(told, expected, strict=True):
        assert one.chosen.logprob == pytest.approx(other.chosen.logprob, abs=1e-3)


async def test_a_grammar_that_cannot_be_is_told_and_the_next_one_runs(driver: LocalDriver) -> None:
    with pytest.raises(E_GRAMMAR):
        await finish(driver, make_job("regex", "("))

    assert (await finish(driver, make_job("regex", "ok"))).text == "ok"
