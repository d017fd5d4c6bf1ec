"""Log-probabilities beside the tokens, and branches of one prompt."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from transformers import AutoModelForCausalLM

from llmos.kernel.executor.engine import Engine
from llmos.kernel.executor.protocol import Done, Generate, Token
from llmos.syscalls.types import Grammar, Message, Sampling, TokenLogprobs

from .conftest import run

PROMPT = (Message("user", "a prompt that is long enough to fill a few pages of the cache " * 2),)
HOT = Sampling(max_tokens=12, temperature=1.3, top_p=0.9, seed=9, logprobs=3)


@pytest.fixture(scope="module")
def peer(qwen3: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(qwen3, dtype=torch.float32).eval()


def answer(engine: Engine, *requests: Generate) -> tuple[list[Token], list[Done]]:
    outputs = run(engine, *requests)
    tokens = [one for one in outputs if isinstance(one, Token)]
    dones = [one for one in outputs if isinstance(one, Done)]
    assert len(dones) == len(requests)
    return tokens, dones


def ask(sampling: Sampling, number: int = 1, grammar: Grammar | None = None) -> Generate:
    return Generate(number, PROMPT, sampling=sampling, grammar=grammar)


@torch.inference_mode()
def expect(peer: Any, prompt: list[int], tokens: tuple[int, ...]) -> torch.Tensor:
    logits = peer(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits.float(), -1)


def check(expected: torch.Tensor, tokens: tuple[int, ...], told: tuple[TokenLogprobs, ...]) -> None:
    for row, token, one in zip(expected, tokens, told, strict=True):
        assert one.chosen.token == token
        assert one.chosen.logprob == pytest.approx(float(row[token]), abs=1e-3)
        best = [other.logprob for other in one.top]
        assert best == pytest.approx(row.topk(len(best)).values.tolist(), abs=1e-3)


def test_they_are_the_models_own_whatever_the_filters(engine: Engine, peer: Any) -> None:
    _, (done,) = answer(engine, ask(HOT))

    expected = expect(peer, engine._chat.encode(PROMPT, ()), done.tokens)
    check(expected, done.tokens, done.logprobs)
    assert {len(one.top) for one in done.logprobs} == {3}


def test_a_grammar_does_not_change_them(engine: Engine, peer: Any) -> None:
    _, (done,) = answer(engine, ask(HOT, grammar=Grammar("regex", "[0-9]{4}")))

    check(expect(peer, engine._chat.encode(PROMPT, ()), done.tokens), done.tokens, done.logprobs)


def test_they_stream_with_their_tokens(engine: Engine) -> None:
    tokens, (done,) = answer(engine, ask(HOT))

    streamed = [one for token in tokens for one in token.logprobs]
    assert streamed == list(done.logprobs[: len(streamed)])
    assert all(len(token.tokens) == len(token.logprobs) for token in tokens)


def test_nothing_is_told_that_nobody_asked_for(engine: Engine) -> None:
    silent = msgspec.structs.replace(HOT, logprobs=None)

    tokens, (done,) = answer(engine, ask(silent))

    assert done.logprobs == ()
    assert all(token.logprobs == () for token in tokens)


def test_asking_for_them_changes_no_token(engine: Engine) -> None:
    silent = msgspec.structs.replace(HOT, logprobs=None)

    _, told = answer(engine, ask(HOT, 1), ask(silent, 2))

    assert told[0].tokens == told[1].tokens


def test_after_a_restart_those_that_are_new_are_told(engine: Engine) -> None:
    _, (whole,) = answer(engine, ask(HOT))
    again = msgspec.structs.replace(ask(HOT), emitted=whole.tokens[:5])

    _, (rest,) = answer(engine, again)

    assert [one.chosen.token for one in rest.logprobs] == list(whole.tokens[5:])


def test_branches_of_one_prompt_share_its_prefill(engine: Engine) -> None:
    seeds = [msgspec.structs.replace(HOT, seed=seed) for seed in range(8)]

    _, dones = answer(engine, *[ask(one, number) for number, one in enumerate(seeds)])

    num_prompt = dones[0].usage.prompt_tokens
    cached = sorted(done.usage.cached_tokens for done in dones)
    assert len({done.tokens for done in dones}) > 1
    assert cached == [0] + [(num_prompt - 1) // 16 * 16] * 7
