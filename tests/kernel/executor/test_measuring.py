"""Scores and vectors are those of the model as transformers runs it."""

import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmos.kernel.executor.engine import Engine
from llmos.kernel.executor.protocol import (
    Done,
    Embed,
    Embedded,
    Failed,
    Generate,
    Load,
    Score,
    Scored,
)
from llmos.syscalls.types import Message, Sampling

from .conftest import run

ASKED = (Message("user", "a question of some length, so that there are whole pages of it"),)
ANSWERS = ("a first answer", "another <|im_end|> one", "z", "Grüße, 世界! 🦊 " * 4)
TEXTS = ("hello world", "a", "lorem ipsum dolor sit amet " * 15)


@pytest.fixture(scope="module")
def peer(qwen3: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(qwen3, dtype=torch.float32).eval()


@pytest.fixture
def small_steps(qwen3: Path) -> Engine:
    """An engine whose steps are smaller than the texts, and whose pages are few."""
    return Engine(Load(str(qwen3)), num_pages=40, max_step_tokens=24, max_running=3)


def score(engine: Engine, answers: tuple[str, ...] = ANSWERS) -> Scored:
    (scored,) = run(engine, Score(1, ASKED, answers))
    assert isinstance(scored, Scored), scored
    return scored


def embed(engine: Engine) -> list[torch.Tensor]:
    (embedded,) = run(engine, Embed(1, TEXTS))
    assert isinstance(embedded, Embedded), embedded
    return [torch.tensor(struct.unpack(f"<{len(one) // 4}f", one)) for one in embedded.vectors]


@torch.inference_mode()
def expect_logprobs(peer: Any, prompt: list[int], tokens: list[int]) -> list[float]:
    logits = peer(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    logprobs = torch.log_softmax(logits.float(), -1)
    return [float(row[token]) for row, token in zip(logprobs, tokens, strict=True)]


@pytest.mark.parametrize("name", ["engine", "small_steps"])
def test_scores_are_the_models_log_probabilities(
    name: str, peer: Any, request: pytest.FixtureRequest
) -> None:
    engine: Engine = request.getfixturevalue(name)
    prompt = engine._chat.encode(ASKED, ())

    scored = score(engine)

    for answer in scored.tokens:
        expected = expect_logprobs(peer, prompt, [one.token for one in answer])
        assert [one.logprob for one in answer] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", ["engine", "small_steps"])
def test_vectors_are_the_mean_of_the_last_hidden_states(
    name: str, peer: Any, qwen3: Path, request: pytest.FixtureRequest
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(qwen3)

    vectors = embed(request.getfixturevalue(name))

    for text, vector in zip(TEXTS, vectors, strict=True):
        with torch.inference_mode():
            hidden = peer.model(torch.tensor([tokenizer.encode(text)])).last_hidden_state[0]
        assert torch.allclose(
            vector, torch.nn.functional.normalize(hidden.mean(0), dim=0), atol=1e-4
        )
        assert float(vector.norm()) == pytest.approx(1.0, abs=1e-5)


def test_special_tokens_in_a_text_are_text(engine: Engine) -> None:
    scored = score(engine)

    assert 2 not in [one.token for one in scored.tokens[1]]
    assert "".join(one.text for one in scored.tokens[1]) == ANSWERS[1]


def test_the_prompt_is_computed_once_and_counted_once(engine: Engine) -> None:
    first, second = score(engine), score(engine)
    prompt = engine._chat.encode(ASKED, ())

    assert first.usage.prompt_tokens == len(prompt) + sum(map(len, first.tokens))
    assert second.usage.cached_tokens == (len(prompt) - 1) // 16 * 16 > 0


def test_a_known_text_is_scored_the_same_again(engine: Engine) -> None:
    first, second = score(engine), score(engine)

    for one, other in zip(first.tokens, second.tokens, strict=True):
        assert [x.logprob for x in one] == pytest.approx([x.logprob for x in other], abs=1e-4)


def test_generations_beside_them_are_what_they_were(small_steps: Engine) -> None:
    asked = Generate(7, ASKED, sampling=Sampling(max_tokens=30, temperature=1.0, seed=5))
    (alone,) = [one for one in run(small_steps, asked) if isinstance(one, Done)]

    outputs = run(small_steps, Score(1, ASKED, ANSWERS), asked, Embed(2, TEXTS))

    (beside,) = [one for one in outputs if isinstance(one, Done)]
    assert beside.tokens == alone.tokens
    assert len([one for one in outputs if isinstance(one, Scored | Embedded)]) == 2


@pytest.mark.parametrize(
    ("request_", "code", "field"),
    [
        (Score(1, ASKED, ("x " * 2000,)), "E_CONTEXT", None),
        (Embed(1, ("x " * 2000,)), "E_CONTEXT", None),
        (Score(1, (), ("x",)), "E_ARG", "messages"),
        (Score(1, ASKED, ("",)), "E_ARG", "continuations"),
        (Embed(1, ("",)), "E_ARG", "texts"),
        (Score(1, ASKED, ("word " * 100,) * 64), "E_ARG", "continuations"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    engine: Engine, request_: Score | Embed, code: str, field: str | None
) -> None:
    (failed,) = run(engine, request_)

    assert isinstance(failed, Failed)
    assert (failed.error.code, failed.error.field) == (code, field)


def test_a_cancel_frees_everything(small_steps: Engine) -> None:
    small_steps.submit(Score(1, ASKED, ANSWERS))
    small_steps.step()

    small_steps.cancel(1)

    (failed,) = small_steps.step()
    assert isinstance(failed, Failed)
    assert failed.error.code == "E_CANCELLED"
    assert not small_steps.has_work
    small_steps.check_integrity()


def test_what_is_paused_goes_on_when_resumed(engine: Engine) -> None:
    whole = score(engine)
    engine.submit(Score(2, ASKED, ANSWERS))
    engine.pause(2)
    assert not engine.has_work

    engine.resume(2)

    (scored,) = run(engine)
    assert isinstance(scored, Scored)
    assert [len(one) for one in scored.tokens] == [len(one) for one in whole.tokens]
