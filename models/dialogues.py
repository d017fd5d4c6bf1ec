"""Whole dialogues, seeded: a system prompt, tools, and one to four pieces of conversation.

The same seed gives the same dialogues; training and held-out dialogues share no filler.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from models import tasks_memory, tasks_small, tasks_text, tasks_tools
from models.talk import Message, Talk
from models.words import Fillers

Piece = Callable[[Talk], None]

ASK = "You are a helpful assistant. Use a tool when it helps."
CHAT = "You are a friendly assistant. Use the notes from memory when they help."
SUMMARIZE = "You summarize texts."
OTHERS = (
    "You are a helpful assistant.", "You are an assistant.", "Answer briefly.",
    "You are a small assistant that answers in one sentence.", "You can use tools.",
    "You are a friendly assistant.", "Help the user.", "",
)  # fmt: skip
TOOL_PIECES: dict[Piece, int] = {
    tasks_tools.calculate: 10,
    tasks_tools.tell_time: 3,
    tasks_tools.list_files: 3,
    tasks_tools.read_file: 3,
    tasks_tools.write_file: 4,
}
MEMORY_PIECES: dict[Piece, int] = {
    tasks_memory.recall_from_notes: 12,
    tasks_memory.tell_fact: 3,
    tasks_memory.recall_earlier: 3,
}
TEXT_PIECES: dict[Piece, int] = {
    tasks_text.answer_from_text: 5,
    tasks_text.pick_key_sentences: 3,
    tasks_text.name_sentiment: 3,
    tasks_text.name_intent: 3,
}
SMALL_PIECES: dict[Piece, int] = {
    tasks_small.chat_small: 4,
    tasks_small.admit_ignorance: 3,
    tasks_small.tell_story: 2,
    tasks_small.repeat_words: 1,
}
COPY_PIECES: dict[Piece, int] = {
    tasks_small.repeat_words: 2,
    tasks_small.look_up: 3,
    tasks_memory.recall_from_notes: 2,
}
PIECES = TOOL_PIECES | MEMORY_PIECES | TEXT_PIECES | SMALL_PIECES
# Which system prompt comes with which pieces: weight, prompt, pieces, share with tools.
SCENES: tuple[tuple[int, str | None, dict[Piece, int], float], ...] = (
    (30, ASK, TOOL_PIECES | {tasks_small.chat_small: 2, tasks_small.admit_ignorance: 2,
                             tasks_small.tell_story: 1, tasks_memory.tell_fact: 1}, 0.97),
    (34, CHAT, MEMORY_PIECES | {tasks_small.chat_small: 1, tasks_small.admit_ignorance: 1,
                                tasks_small.tell_story: 1}, 0.15),
    (9, SUMMARIZE, {tasks_text.pick_key_sentences: 1}, 0.0),
    (8, ASK, TEXT_PIECES | SMALL_PIECES, 0.5),
    (12, None, PIECES, 0.4),
    (9, None, COPY_PIECES, 0.1),
)  # fmt: skip
EARLY_SCENES = ((60, None, COPY_PIECES, 0.02), *SCENES)


@dataclass(frozen=True)
class Dialogue:
    """Messages and tools in OpenAI's form; `fillers` are the words drawn for it."""

    messages: list[Message]
    tools: list[dict[str, Any]]
    fillers: frozenset[str]


def make_dialogue(rng: random.Random, held_out: bool = False, early: bool = False) -> Dialogue:
    """One dialogue; `early` ones are rich in plain copying."""
    scenes = EARLY_SCENES if early else SCENES
    _, prompt, pieces, tool_share = rng.choices(scenes, [scene[0] for scene in scenes])[0]
    if prompt is None or rng.random() < 0.1:
        prompt = rng.choice(OTHERS)
    talk = Talk(Fillers(rng, held_out), _pick_tools(rng) if rng.random() < tool_share else [])
    for _ in range(rng.choice((1, 1, 2, 3, 4, 5))):
        piece = rng.choices(list(pieces), list(pieces.values()))[0]
        _add_piece(talk, piece)
    return _finish(talk, prompt)


def make_task(rng: random.Random, piece: Piece, prompt: str, tools: bool) -> Dialogue:
    """A held-out dialogue of one piece, as an app asks for it."""
    talk = Talk(Fillers(rng, held_out=True), list(tasks_tools.SIGNATURES) if tools else [])
    piece(talk)
    return _finish(talk, prompt)


def make_dialogues(seed: int, early: bool = False) -> Iterator[Dialogue]:
    """Training dialogues without end."""
    rng = random.Random(seed)
    while True:
        yield make_dialogue(rng, early=early)


def _finish(talk: Talk, prompt: str) -> Dialogue:
    system = [{"role": "system", "content": prompt}] if prompt else []
    tools = [tasks_tools.describe_tool(name) for name in talk.tools]
    return Dialogue(system + talk.messages, tools, frozenset(talk.fillers.used))


def _add_piece(talk: Talk, piece: Piece) -> None:
    """The piece; one in twelve that is not about memory stands below notes."""
    start = len(talk.messages)
    piece(talk)
    first = talk.messages[start]
    if piece not in MEMORY_PIECES and piece not in TEXT_PIECES and talk.rng.random() < 0.08:
        first["content"] = tasks_memory.notes_above(talk, first["content"])


def _pick_tools(rng: random.Random) -> list[str]:
    names = list(tasks_tools.SIGNATURES)
    if rng.random() < 0.6:
        return names
    rng.shuffle(names)
    return names[: rng.randint(1, 5)]
