"""Accuracy by task of the bundled demonstration model: `python -m bench.bundled_model`.

Held-out dialogues are generated with names, numbers and words that training never saw. Every
assistant turn is a case: the model gets the true dialogue before it and answers greedily. A tool
call is right when name and arguments are equal; a recalled or repeated value when the reply
contains it; anything else when the whole reply is equal.
"""

import argparse
import json
import random
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from models import tasks_memory, tasks_small, tasks_text, tasks_tools
from models.dialogues import ASK, CHAT, SUMMARIZE, Dialogue, Piece, make_task

DEMO = Path(__file__).parent.parent / "models" / "demo"
SEED = 20_000
BATCH = 64
MAX_NEW_TOKENS = 160
# What is asked, under which system prompt, with tools or without.
SUITE: tuple[tuple[Piece, str, bool], ...] = (
    (tasks_tools.calculate, ASK, True),
    (tasks_tools.tell_time, ASK, True),
    (tasks_tools.list_files, ASK, True),
    (tasks_tools.read_file, ASK, True),
    (tasks_tools.write_file, ASK, True),
    (tasks_memory.recall_from_notes, CHAT, False),
    (tasks_memory.tell_fact, CHAT, False),
    (tasks_memory.recall_earlier, CHAT, False),
    (tasks_text.answer_from_text, ASK, False),
    (tasks_text.pick_key_sentences, SUMMARIZE, False),
    (tasks_text.name_sentiment, ASK, False),
    (tasks_text.name_intent, ASK, False),
    (tasks_small.chat_small, ASK, True),
    (tasks_small.admit_ignorance, ASK, True),
    (tasks_small.tell_story, ASK, True),
)


@dataclass(frozen=True)
class Case:
    """A prompt and the assistant turn that should follow."""

    prompt: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    wanted: dict[str, Any]


def make_cases(count: int, seed: int = SEED) -> list[Case]:
    """The cases of `count` held-out dialogues for every entry of the suite."""
    rng = random.Random(seed)
    dialogues = [make_task(rng, *entry) for entry in SUITE for _ in range(count)]
    return [case for dialogue in dialogues for case in _split(dialogue)]


def _split(dialogue: Dialogue) -> Iterator[Case]:
    for at, message in enumerate(dialogue.messages):
        if message["role"] == "assistant":
            yield Case(dialogue.messages[:at], dialogue.tools, message)


class Model:
    """The shipped checkpoint, as plain transformers loads it."""

    def __init__(self, folder: Path = DEMO) -> None:
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, padding_side="left")
        self.model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def answer(self, cases: list[Case]) -> list[str]:
        """The greedy replies, in the order of the cases."""
        prompts = [
            self.tokenizer.apply_chat_template(
                case.prompt, tools=case.tools or None, tokenize=False, add_generation_prompt=True
            )
            for case in cases
        ]
        replies = [""] * len(cases)
        order = sorted(range(len(cases)), key=lambda index: len(prompts[index]))
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            texts = self._generate([prompts[index] for index in chosen])
            for index, text in zip(chosen, texts, strict=True):
                replies[index] = text
        return replies

    @torch.inference_mode()
    def _generate(self, prompts: list[str]) -> list[str]:
        inputs = self.tokenizer(
            prompts, return_tensors="pt", padding=True, add_special_tokens=False,
            return_token_type_ids=False,
        )  # fmt: skip
        ids = self.model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        new = ids[:, inputs["input_ids"].shape[1] :]
        return list(self.tokenizer.batch_decode(new, skip_special_tokens=True))


def is_right(wanted: dict[str, Any], reply: str) -> bool:
    """Whether a reply does what the wanted assistant turn does."""
    if "tool_calls" in wanted:
        found = re.fullmatch(r"\s*<tool_call>\n(.*)\n</tool_call>\s*", reply, re.DOTALL)
        try:
            call = json.loads(found[1]) if found else None
        except json.JSONDecodeError:
            return False
        return bool(call == wanted["tool_calls"][0]["function"])
    if wanted["task"] == "story":
        return wanted["answer"] in reply and 3 <= len(re.findall(r"[.!?]", reply)) <= 4
    if wanted["answer"] is not None:
        pattern = rf"(?<!\w){re.escape(wanted['answer'])}(?!\w)"
        return re.search(pattern, reply) is not None
    return bool(reply.strip() == wanted["content"])


def measure(model: Model, cases: list[Case]) -> tuple[dict[str, tuple[int, int]], list[str]]:
    """Right and all by task, and a line for every wrong reply."""
    right: dict[str, int] = defaultdict(int)
    total: dict[str, int] = defaultdict(int)
    wrong = []
    for case, reply in zip(cases, model.answer(cases), strict=True):
        task = case.wanted["task"]
        total[task] += 1
        right[task] += is_right(case.wanted, reply)
        if not is_right(case.wanted, reply):
            wanted = case.wanted["content"] or case.wanted["tool_calls"][0]["function"]
            asked = case.prompt[-1]["content"]
            wrong.append(f"[{task}] {asked!r}\n    wanted {wanted!r}\n    got    {reply!r}")
    return {task: (right[task], total[task]) for task in sorted(total)}, wrong


def main(argv: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="20 dialogues a kind, not 150")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--wrong", action="store_true", help="show the wrong replies")
    parser.add_argument("--model", type=Path, default=DEMO)
    options = parser.parse_args(argv)
    started = time.monotonic()
    cases = make_cases(20 if options.quick else 150)
    results, wrong = measure(Model(options.model), cases)
    print("The bundled demonstration model on held-out dialogues (greedy)")
    for task, (right, total) in results.items():
        print(f"  {task:20s} {right / total:7.1%}  {right} of {total}")
    calls = [result for task, result in results.items() if task.endswith("_call")]
    recalls = [result for task, result in results.items() if task.startswith("recall")]
    groups = {"tool_calls": calls, "recall": recalls}
    shares = {
        name: sum(r for r, _ in each) / sum(n for _, n in each) for name, each in groups.items()
    }
    for name, share in shares.items():
        print(f"  all {name:16s} {share:7.1%}")
    print(f"  {len(cases)} cases in {time.monotonic() - started:.0f} s")
    if options.wrong:
        print("\n".join(wrong))
    if options.json:
        flat = {task: round(right / total, 4) for task, (right, total) in results.items()}
        print(json.dumps(flat | {name: round(share, 4) for name, share in shares.items()}))


if __name__ == "__main__":
    main()
