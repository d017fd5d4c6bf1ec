"""What every engine is given: sessions of turns, as token ids.

A session's turns follow each other: the next prompt is all that the session has so far, the
answers too, and then the turn's own tokens. All sessions begin at once. Two rounds of a workload
have no token in common by design, so that no cache carries over from one to the next.
"""

import random
from dataclasses import asdict, dataclass
from typing import Any

NUM_SEQUENCES = 16
NUM_PROMPT = 512
NUM_SHARED = 448
NUM_NEW = 128
NUM_SESSIONS = 8
NUM_TURNS = 4
NUM_TURN_TOKENS = 64
FIRST_ORDINARY = 1000  # below are control tokens and bytes


@dataclass(frozen=True)
class Turn:
    """Token ids that the user adds, and how many the engine answers with."""

    added: tuple[int, ...]
    num_new: int


Session = tuple[Turn, ...]
Workload = tuple[Session, ...]
TITLES = {
    "a": "one stream, decode",
    "b": "16 at once",
    "c": "16 with a shared prefix",
    "d": "8 sessions x 4 turns",
}


def make_workload(name: str, number: int, vocab_size: int) -> Workload:
    """Round `number` of a workload: the same tokens whenever and wherever it is made."""
    rng = random.Random(f"{name} {number}")

    def draw(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(FIRST_ORDINARY, vocab_size) for _ in range(count))

    if name == "a":
        return ((Turn(draw(NUM_PROMPT), NUM_NEW),),)
    if name == "b":
        return tuple((Turn(draw(NUM_PROMPT), NUM_NEW),) for _ in range(NUM_SEQUENCES))
    if name == "c":
        shared = draw(NUM_SHARED)
        own = NUM_PROMPT - NUM_SHARED
        return tuple((Turn(shared + draw(own), NUM_NEW),) for _ in range(NUM_SEQUENCES))
    if name == "d":
        return tuple(
            tuple(Turn(draw(NUM_TURN_TOKENS), NUM_TURN_TOKENS) for _ in range(NUM_TURNS))
            for _ in range(NUM_SESSIONS)
        )
    raise ValueError(f"no workload {name!r}")


def make_warm_up(vocab_size: int) -> Workload:
    """A short workload that touches what the others touch: many prompts, batches, two turns."""
    rng = random.Random("warm-up")

    def draw(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(FIRST_ORDINARY, vocab_size) for _ in range(count))

    return tuple((Turn(draw(64), 4), Turn(draw(8), 4)) for _ in range(NUM_SEQUENCES))


def to_json(workload: Workload) -> list[list[dict[str, Any]]]:
    """Plain lists and dicts, as `serving.py` reads them."""
    return [[asdict(turn) for turn in session] for session in workload]
