"""chat: a conversation that remembers, from one run to the next, what you told it.

A turn recalls what was said before, shows it to the model beside the new words, and then remembers
these. Questions are not remembered: they tell nothing that a later answer could use, and would
be found again in place of the fact that they ask for.
"""

from collections.abc import Iterable

from llmos import System, app
from llmos.syscalls.client import Context
from llmos.syscalls.errors import E_CONTEXT
from llmos.syscalls.memory import MAX_NOTE_CHARS, MAX_QUERY_CHARS, Note

SYSTEM = "You are a friendly assistant. Use the notes from memory when they help."
MAX_NOTES = 8
QUESTION_WORDS = frozenset(
    "what who whom whose where when why which how is are am was were do does did can could will"
    " would should shall may might have has had".split()
)


@app
async def main(sys: System, *message: str) -> None:
    """Answer MESSAGE; without one, talk until the end of input."""
    if words := " ".join(message).strip():
        await take_turn(sys, await sys.context(system=SYSTEM), words)
        return
    context = await sys.context(system=SYSTEM)
    while (line := await sys.ask("you> ")) is not None:
        if text := line.strip():
            context = await take_turn(sys, context, text)


async def take_turn(sys: System, context: Context, text: str) -> Context:
    """Answer one message; returns the context to go on with.

    It is a new one when the conversation no longer fits the model's window.
    """
    notes = choose_notes(await sys.recall(text[:MAX_QUERY_CHARS], limit=MAX_NOTES), text)
    prompt = add_notes(text, notes)
    try:
        await context.respond(text, prompt=prompt, show=True)
    except E_CONTEXT:
        if len(await context.messages()) <= 1:
            raise
        await sys.print("(The conversation no longer fits the model's window: it starts anew.)")
        context = await sys.context(system=SYSTEM)
        await context.respond(text, prompt=prompt, show=True)
    await sys.print()
    if not is_question(text):
        await sys.remember(text[:MAX_NOTE_CHARS], kind="turn", role="user")
    return context


def choose_notes(notes: Iterable[Note], text: str) -> list[str]:
    """The texts that the person said before, best first, but not the very words of now."""
    said = (note.text for note in notes if note.kind == "turn" and note.role == "user")
    return [note for note in dict.fromkeys(said) if note != text]


def add_notes(text: str, notes: list[str]) -> str:
    """The prompt of a turn: notes before the words, in the form the bundled model is trained on."""
    if not notes:
        return text
    return "\n".join(["Notes from memory:", *(f"- {note}" for note in notes)]) + f"\n\n{text}"


def is_question(text: str) -> bool:
    """Whether the words ask: a question mark at the end, or a question word at the start."""
    words = text.casefold().split()
    first = words[0].strip(",.!?'\"").partition("'")[0] if words else ""
    return text.rstrip().endswith("?") or first in QUESTION_WORDS
