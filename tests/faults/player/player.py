"""An app that plays calls by a seed and writes down, past the syscalls, what each one answered.

What it calls depends on its arguments, and on answers that are durable by then, so that a replay
makes the same calls. Every line is written with one `write` to a file outside the store: a kill
loses none that was written, and each says what the app had been told by then.
"""

import os
import secrets
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import NamedTuple

import anyio
import msgspec

from llmos import app
from llmos.syscalls.client import System
from llmos.syscalls.errors import SyscallError
from llmos.syscalls.generate import Generate
from llmos.syscalls.ipc import Ask, Print, Receive, Send
from llmos.syscalls.memory import ContextAppend, ContextCreate, ContextCreated, Recall, Remember
from llmos.syscalls.process import GetPid, PidReply, Spawn, Wait
from llmos.syscalls.table import BY_REQUEST
from llmos.syscalls.tool import Tool
from llmos.syscalls.types import Message, Sampling
from llmos.syscalls.values import Now, Sleep, Uuid
from llmos.syscalls.values import Random as Chance
from llmos.syscalls.wire import encode

LEFT = "LEFT"  # the outcome of a call that the app did not wait for
MARK = "mark"  # the `once` tool whose effect is a line in the witness
FOLDER = Path(__file__).parent
NUM_BRANCHES = 2
BRANCH_CALLS = 4
CHILD_CALLS = 6
MAX_PAUSE_MS = 12
NAP_SECONDS = 0.4  # long enough to be evicted
WEIGHTS = {
    "now": 6,
    "chance": 6,
    "uuid": 3,
    "null": 2,
    "print": 8,
    "remember": 5,
    "recall": 2,
    "context": 2,
    "append": 3,
    "mark": 10,
    "clock": 3,
    "sleep": 4,
    "ask": 3,
    "generate": 4,
    "send": 4,
    "receive": 4,
    "nap": 1,
    "branches": 1,
    "child": 1,
}


class Ack(msgspec.Struct, frozen=True, array_like=True):
    """What an app was told: the outcome ("DONE", LEFT or an error's code) and the reply's digest.

    `run` is one OS process of the app; `call` is the syscall's name, or MARK.
    """

    run: str
    name: str
    strand: str
    seq: int
    call: str
    outcome: str
    digest: str = ""


def digest_reply(body: bytes) -> str:
    """A short digest of a reply in msgpack, as the journal keeps it."""
    return blake2b(body, digest_size=8).hexdigest()


def make_call(kind: str, place: str, own: "Own", random: Random) -> msgspec.Struct:
    """The call of a kind; whatever it leaves in the world carries its place."""
    pause = random.randrange(MAX_PAUSE_MS)
    message = Message("user", f"!slow {pause // 4} four words for {place}")
    calls = {
        "now": Now(),
        "chance": Chance(),
        "uuid": Uuid(),
        "null": GetPid(),
        "print": Print(f"<{place}>\n"),
        "remember": Remember(f"note of {place}"),
        "recall": Recall("note", 3),
        "context": ContextCreate((message,)),
        "append": ContextAppend(own.context, (message,)),
        "mark": Tool(MARK, f'{{"place": "{place}", "pause_ms": {pause}}}'),
        "clock": Tool("clock"),
        "sleep": Sleep(pause / 1000),
        "nap": Sleep(NAP_SECONDS),
        "send": Send(own.pid, f"letter of {place}"),
        "receive": Receive(pause / 1000),
        "ask": Ask(f"who is {place}?"),
        "generate": Generate((message,), sampling=Sampling(max_tokens=12)),
    }
    return calls[kind]


class Own(NamedTuple):
    """The numbers of a player's own process and context."""

    pid: int = 1
    context: int = 1


class Player:
    """Plays the calls of one process. `patience_ms` 0 waits for every answer."""

    def __init__(self, sys: System, name: str, seed: int, acks: str, patience_ms: int) -> None:
        self._sys = sys
        self._name = name
        self._seed = seed
        self._acks = acks
        self._patience_seconds = patience_ms / 1000
        self._run = secrets.token_hex(4)
        self._file = os.open(acks, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._num_branches = 0
        self._own = Own()

    async def begin(self) -> int:
        """Start the context that later calls add to; how many calls that took."""
        created = await self._call("0", 0, ContextCreate())
        named = await self._call("0", 1, GetPid())
        if isinstance(created, ContextCreated) and isinstance(named, PidReply):
            self._own = Own(named.pid, created.context)
        return 2

    async def play(self, strand: str, num_calls: int, kinds: dict[str, int], seq: int = 0) -> None:
        """Make calls in this strand, one after the other, from number `seq` on."""
        random = Random(f"{self._seed}/{self._name}/{strand}")
        while seq < num_calls:
            (kind,) = random.choices(list(kinds), list(kinds.values()))
            if kind == "branches":
                await self._branch(strand)
            elif kind == "child":
                await self._raise_child(strand, seq)
                seq += 2
            else:
                call = make_call(kind, f"{self._name}/{strand}/{seq}", self._own, random)
                is_hasty = self._patience_seconds and random.random() < 0.1
                await self._call(strand, seq, call, is_hasty=bool(is_hasty))
                seq += 1

    async def _branch(self, strand: str) -> None:
        """Branches side by side, each in the strand that the SDK gives it."""
        first = self._num_branches + 1
        self._num_branches += NUM_BRANCHES
        plain = {kind: weight for kind, weight in WEIGHTS.items() if weight > 1}
        numbers = range(first, first + NUM_BRANCHES)
        await self._sys.gather(
            *(self.play(f"{strand}.{number}", BRANCH_CALLS, plain) for number in numbers)
        )

    async def _raise_child(self, strand: str, seq: int) -> None:
        """Start a player of our own and wait for its end. Two calls, whatever the first answers."""
        name = f"{self._name}.{seq}"
        argv = (name, str(self._seed), str(CHILD_CALLS), self._acks, "0", "--is-child")
        reply = await self._call(strand, seq, Spawn(str(FOLDER), argv))
        child = reply.pid if isinstance(reply, PidReply) else 1
        await self._call(strand, seq + 1, Wait(child, foreground=True))

    async def _call(
        self, strand: str, seq: int, call: msgspec.Struct, *, is_hasty: bool = False
    ) -> msgspec.Struct | None:
        """Make a call and write down what it answered; the reply, or None for an error."""
        name = MARK if isinstance(call, Tool) and call.name == MARK else BY_REQUEST[type(call)].name
        reply, outcome, digest = None, LEFT, ""
        with anyio.move_on_after(self._patience_seconds if is_hasty else None):
            try:
                reply = await self._sys.call(call)
                outcome, digest = "DONE", digest_reply(encode(reply))
            except SyscallError as error:
                outcome = error.code
        ack = Ack(self._run, self._name, strand, seq, name, outcome, digest)
        os.write(self._file, msgspec.json.encode(ack) + b"\n")
        return reply

    def close(self) -> None:
        """Give the file back."""
        os.close(self._file)


@app
async def main(
    sys: System,
    name: str,
    seed: int,
    num_calls: int,
    acks: str,
    patience_ms: int,
    is_child: bool = False,
) -> str:
    """Play the calls of NAME; a child has no children of its own."""
    kinds = {kind: weight for kind, weight in WEIGHTS.items() if kind != "child" or not is_child}
    player = Player(sys, name, seed, acks, patience_ms)
    try:
        await player.play("0", num_calls, kinds, await player.begin())
    finally:
        player.close()
    return name
