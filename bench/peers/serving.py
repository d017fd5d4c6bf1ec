"""The engine's side of a measurement: JSON lines on standard input and output.

Runs in the environment of the engine, so it needs the standard library alone. A request is
`{"load": options}` or `{"run": sessions}`; an answer is one line. The engine's own prints go to
standard error. The clock starts when a workload has been read and is with the engine.
"""

import json
import os
import sys
import time
from typing import Any, Protocol, TextIO


class Stepper(Protocol):
    """An engine that runs several sessions at once, a step at a time."""

    def start(self, session: int, prompt: list[int], num_new: int) -> None:
        """Begin a turn: `prompt` is everything that the session has so far."""
        ...

    def step(self) -> list[tuple[int, list[int]]]:
        """Go on with what was started: new tokens by session."""
        ...


Turn = dict[str, Any]
Sessions = list[list[Turn]]


class Served(Protocol):
    """What an engine's script gives to `serve`."""

    def load(self, options: dict[str, Any]) -> dict[str, Any]:
        """Load the model; what there is to say about versions and settings."""
        ...

    def run(self, sessions: Sessions) -> dict[str, Any]:
        """Run a workload; seconds and tokens, see `drive`."""
        ...


def drive(engine: Stepper, sessions: Sessions) -> dict[str, Any]:
    """Run all sessions to their ends.

    `seconds` is the whole; `turns` has for each session and turn the tokens and the seconds,
    since the beginning, of its first and last token.
    """
    begun = time.perf_counter()
    histories: list[list[int]] = [[] for _ in sessions]
    turns: list[list[Turn]] = [[] for _ in sessions]

    def start(number: int) -> None:
        turn = sessions[number][len(turns[number])]
        histories[number] += turn["added"]
        turns[number].append({"tokens": [], "first": 0.0, "last": 0.0})
        engine.start(number, histories[number], turn["num_new"])

    for number in range(len(sessions)):
        start(number)
    num_open = len(sessions)
    while num_open:
        for number, tokens in engine.step():
            now = time.perf_counter() - begun
            current = turns[number][-1]
            current["first"] = current["first"] or now
            current["last"] = now
            current["tokens"] += tokens
            if len(current["tokens"]) < sessions[number][len(turns[number]) - 1]["num_new"]:
                continue
            histories[number] += current["tokens"]
            if len(turns[number]) < len(sessions[number]):
                start(number)
            else:
                num_open -= 1
    return {"seconds": time.perf_counter() - begun, "turns": turns}


def serve(engine: Served) -> None:
    """Answer requests until standard input ends."""
    answers = _take_standard_output()
    for line in sys.stdin:
        request = json.loads(line)
        answer = engine.load(request["load"]) if "load" in request else engine.run(request["run"])
        print(json.dumps(answer), file=answers, flush=True)


def _take_standard_output() -> TextIO:
    """Keep standard output for answers; whatever a library prints there goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers
