"""A dialogue while it is being made: its messages, its tools and what the user has told.

Messages are OpenAI's dicts; an assistant message also carries `task` (its row in the benchmark)
and `answer` (the text that a right reply must contain, or None where the whole reply must match).
"""

import random
import re
from dataclasses import dataclass, field
from typing import Any

from models.words import Fillers

Message = dict[str, Any]

TYPOS = {
    "what": ("waht", "wat", "whta"),
    "where": ("wher", "whre"),
    "please": ("pls", "plz", "pleas"),
    "calculate": ("calcualte", "calulate"),
    "the": ("teh",),
    "called": ("caled", "calld"),
    "remember": ("rember", "remeber"),
    "favourite": ("favorite", "favourit"),
    "time": ("tiem",),
    "much": ("mcuh",),
    "tell": ("tel",),
    "which": ("wich",),
}


@dataclass
class Talk:
    """One dialogue in the making; `facts` maps what is asked for to the statement told."""

    fillers: Fillers
    tools: list[str]
    messages: list[Message] = field(default_factory=list)
    facts: dict[tuple[str, ...], str] = field(default_factory=dict)

    @property
    def rng(self) -> random.Random:
        return self.fillers.rng

    def user(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})

    def say(self, text: str, task: str, answer: str | None = None) -> None:
        self.messages.append({"role": "assistant", "content": text, "task": task, "answer": answer})

    def call(self, tool: str, arguments: dict[str, str], task: str) -> None:
        function = {"name": tool, "arguments": arguments}
        self.messages.append(
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"type": "function", "function": function}],
                "task": task,
                "answer": None,
            }
        )

    def result(self, tool: str, text: str) -> None:
        self.messages.append({"role": "tool", "name": tool, "content": text})


def write_sloppily(rng: random.Random, template: str) -> str:
    """The template as a user types it: perhaps lower case, no punctuation, a typo, "please"."""
    if rng.random() < 0.5:
        template = re.sub(r"^[A-Z](?=[a-z' ])", lambda found: found[0].lower(), template)
    if rng.random() < 0.4:
        template = template.rstrip("?.!")
    if rng.random() < 0.12:
        template = _misspell(rng, template)
    if rng.random() < 0.04:
        template = template.replace(" ", "  ", 1)
    return template


def _misspell(rng: random.Random, template: str) -> str:
    words = template.split(" ")
    at = [index for index, word in enumerate(words) if word.lower() in TYPOS]
    if at:
        index = rng.choice(at)
        words[index] = rng.choice(TYPOS[words[index].lower()])
    return " ".join(words)


_SECOND_PERSON = (
    (r"\b[Ii]'?m\b", "you are"),
    (r"\b[Ii] am\b", "you are"),
    (r"\b[Ii] was\b", "you were"),
    (r"\b[Ii]\b", "you"),
    (r"\b[Mm]y\b", "your"),
    (r"\b[Mm]e\b", "you"),
    (r"\b[Mm]ine\b", "yours"),
)


def to_second_person(statement: str) -> str:
    """What the user said of themselves, said back: "my cat" becomes "your cat"."""
    for pattern, replacement in _SECOND_PERSON:
        statement = re.sub(pattern, replacement, statement)
    return statement.rstrip(".!")


def to_sentence(statement: str) -> str:
    """The statement in the second person as a sentence of its own."""
    text = to_second_person(statement)
    if text.startswith(("you", "the ", "there ")):
        text = text[0].upper() + text[1:]
    return f"{text}."
