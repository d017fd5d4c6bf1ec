"""The shipped model: its tokenizer, its template, its size, and what it answers."""

import json
import random
from itertools import islice

import pytest
from transformers import PreTrainedTokenizerFast

from bench.bundled_model import DEMO, SUITE, Case, Model, is_right, make_cases, measure
from models.dialogues import ASK, CHAT, make_dialogues
from models.tasks_tools import SIGNATURES, describe_tool
from models.tokenizer import render

MIB = 1024 * 1024
TOOLS = [describe_tool(name) for name in SIGNATURES]


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(DEMO)


def ask(model: Model, system: str, user: str, tools: bool = False) -> str:
    prompt = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return model.answer([Case(prompt, TOOLS if tools else [], {})])[0]


def test_the_weights_are_at_most_16_mb() -> None:
    assert (DEMO / "model.safetensors").stat().st_size <= 16 * MIB


def test_the_model_is_a_qwen3_of_two_to_eight_million_parameters(model: Model) -> None:
    assert model.model.config.model_type == "qwen3"
    assert 2e6 <= model.model.num_parameters() <= 8e6


@pytest.mark.parametrize(
    "text",
    ["Miso lives in Oslo.", "héllo wörld \U0001f600\n\t x  y", "日本語 и ещё", "a\x00b"],
)
def test_any_text_survives_the_tokenizer(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_every_digit_is_a_token(tokenizer: PreTrainedTokenizerFast) -> None:
    assert len(tokenizer.encode("31415", add_special_tokens=False)) == 5


def test_a_name_is_the_same_tokens_wherever_it_stands(tokenizer: PreTrainedTokenizerFast) -> None:
    alone = tokenizer.encode("Ruvomi", add_special_tokens=False)

    inside = tokenizer.encode("my cat is called Ruvomi.", add_special_tokens=False)

    assert inside[-len(alone) - 1 : -1] == alone


def test_every_dialogue_renders_and_marks_what_the_assistant_wrote(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    for dialogue in islice(make_dialogues(8), 100):
        ids, marks = render(tokenizer, dialogue)

        written = tokenizer.decode([t for t, mark in zip(ids, marks, strict=True) if mark])
        turns = [each for each in dialogue.messages if each["role"] == "assistant"]
        assert written.count("<|im_end|>") == len(turns)
        assert all(each["content"] in written for each in turns)
        assert len(ids) < 1200


def test_a_call_reads_the_same_from_a_dict_and_from_a_string(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    arguments = {"expression": "17 * 23"}
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "assistant", "content": "", "tool_calls": [
                {"type": "function", "function": {"name": "calculator", "arguments": each}}
            ]}],
            tokenize=False,
        )
        for each in (arguments, json.dumps(arguments))
    ]  # fmt: skip

    assert texts[0] == texts[1]
    assert '<tool_call>\n{"name": "calculator", "arguments": {"expression"' in texts[0]


def test_results_of_tools_stand_in_one_user_turn(tokenizer: PreTrainedTokenizerFast) -> None:
    results = [{"role": "tool", "name": "clock", "content": text} for text in ("a", "b")]

    text = tokenizer.apply_chat_template(results, tokenize=False)

    wanted = "".join(f"\n<tool_response>\n{each}\n</tool_response>" for each in "ab")
    assert text == f"<|im_start|>user{wanted}<|im_end|>\n"


def test_a_product_becomes_a_call_of_the_calculator(model: Model) -> None:
    reply = ask(model, ASK, "what is 17 * 23?", tools=True)

    call = '{"name": "calculator", "arguments": {"expression": "17 * 23"}}'
    assert reply == f"<tool_call>\n{call}\n</tool_call>"


def test_a_fact_is_acknowledged_and_recalled_from_a_note(model: Model) -> None:
    note = "Notes from memory:\n- my cat is called Miso\n\nwhat is my cat called?"

    assert "Miso" in ask(model, CHAT, "my cat is called Miso")
    assert ask(model, CHAT, note) == "Your cat is called Miso."


def test_it_says_that_it_is_a_demonstration_model(model: Model) -> None:
    assert "demonstration model" in ask(model, ASK, "who are you?", tools=True)


def test_calls_and_recall_are_right_nine_times_in_ten_on_held_out_dialogues(model: Model) -> None:
    cases = make_cases(8, seed=31)

    results, wrong = measure(model, cases)

    asked = [task for task in results if task.endswith("_call") or task.startswith("recall")]
    assert len(asked) >= 5
    right, total = (sum(results[task][index] for task in asked) for index in (0, 1))
    assert right / total >= 0.9, "\n".join(wrong)


def test_a_right_answer_counts_and_a_wrong_one_does_not() -> None:
    cases = random.Random(1).sample(make_cases(3), 40)

    for case in cases:
        calls = case.wanted.get("tool_calls")
        right = case.wanted["content"]
        if calls:
            right = f"<tool_call>\n{json.dumps(calls[0]['function'])}\n</tool_call>"
        assert is_right(case.wanted, right)
        assert not is_right(case.wanted, "Something else.")


def test_the_suite_asks_under_the_prompts_of_the_apps() -> None:
    assert {prompt for _, prompt, _ in SUITE} >= {ASK, CHAT}
