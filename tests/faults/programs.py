"""Programs made from a seed: calls, branches, and data that flows from results to arguments.

`run` is the app; a `Foresight` says, without any of the replay's code, at which steps a program
leaves a journal. A mutation changes one thing of a program.
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from llmos.kernel.journal import digest_call
from llmos.memory.journal import JournalRow
from llmos.syscalls.client import System
from llmos.syscalls.errors import ErrorReply, SyscallError
from llmos.syscalls.files import WriteFile
from llmos.syscalls.generate import Generate
from llmos.syscalls.ipc import Print
from llmos.syscalls.memory import ContextCreate, Recall, Remember
from llmos.syscalls.table import BY_REQUEST
from llmos.syscalls.tool import Tool
from llmos.syscalls.types import Message, Sampling
from llmos.syscalls.values import Now, Random, Sleep, Uuid

MAX_CALLS, MAX_DEPTH = 8, 2
GATHER_SHARE = 0.2
Kind = Literal[
    "now", "random", "uuid", "print", "generate", "remember", "recall", "write", "sleep", "context",
    "add", "divide",
]  # fmt: skip
Mutation = Literal["removed", "added", "swapped", "argument", "name", "branches"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MUTATIONS: tuple[Mutation, ...] = get_args(Mutation)
Key = tuple[str, int]


class Call(msgspec.Struct, frozen=True, tag="call"):
    """One syscall; its argument is made of `number` and of the value that `uses` counts back to."""

    kind: Kind
    number: int
    uses: int


class Gather(msgspec.Struct, frozen=True, tag="gather"):
    """Branches side by side; each sees the values so far."""

    branches: "tuple[Program, ...]"


Op = Call | Gather
Program = tuple[Op, ...]
_decoder = msgspec.json.Decoder(Program)


def make_program(draw: random.Random, depth: int = 0) -> Program:
    """A program of 1 to MAX_CALLS steps, some of them branches of shorter ones."""
    ops: list[Op] = []
    for _ in range(draw.randint(1, MAX_CALLS >> depth)):
        if depth < MAX_DEPTH and draw.random() < GATHER_SHARE:
            branches = [make_program(draw, depth + 1) for _ in range(draw.randint(2, 3))]
            ops.append(Gather(tuple(branches)))
        else:
            ops.append(make_call(draw))
    return tuple(ops)


def make_call(draw: random.Random) -> Call:
    """Any call."""
    return Call(draw.choice(KINDS), draw.randrange(1000), draw.randrange(4))


def mutate(draw: random.Random, program: Program) -> tuple[Mutation, Program]:
    """The program with one thing changed, somewhere in it. It may make the same calls even so."""
    inner = [n for n, op in enumerate(program) if isinstance(op, Gather)]
    if inner and draw.random() < 0.5:
        place = draw.choice(inner)
        gather = program[place]
        assert isinstance(gather, Gather)
        which = draw.randrange(len(gather.branches))
        kind, branch = mutate(draw, gather.branches[which])
        branches = (*gather.branches[:which], branch, *gather.branches[which + 1 :])
        return kind, (*program[:place], Gather(branches), *program[place + 1 :])
    kind = draw.choice(MUTATIONS)
    return kind, tuple(_change(draw, list(program), kind))


def _change(draw: random.Random, ops: list[Op], kind: Mutation) -> list[Op]:
    place = draw.randrange(len(ops))
    op = ops[place]
    match kind:
        case "removed":
            del ops[place]
        case "added":
            ops.insert(place, make_call(draw))
        case "swapped":
            other = draw.randrange(len(ops))
            ops[place], ops[other] = ops[other], op
        case "argument" if isinstance(op, Call):
            ops[place] = msgspec.structs.replace(op, number=op.number + 1)
        case "name" if isinstance(op, Call):
            ops[place] = msgspec.structs.replace(op, kind=draw.choice(KINDS))
        case "branches" if isinstance(op, Gather):
            ops[place] = Gather(op.branches[::-1])
    return ops


def make_request(call: Call, values: Sequence[str]) -> msgspec.Struct:
    """The syscall that a call makes, given the values so far."""
    used = values[-1 - call.uses] if call.uses < len(values) else ""
    text = f"{call.number} {used}"
    match call.kind:
        case "now":
            return Now()
        case "random":
            return Random()
        case "uuid":
            return Uuid()
        case "print":
            return Print(text)
        case "generate":
            return Generate((Message("user", text),), sampling=Sampling(max_tokens=4))
        case "remember":
            return Remember(text)
        case "recall":
            return Recall(text)
        case "write":
            return WriteFile(f"{call.number}.txt", text)
        case "sleep":
            return Sleep(call.number / 1e6)
        case "context":
            return ContextCreate((Message("system", text),))
        case "add":
            return Tool("calculator", f'{{"expression": "{call.number} + {len(used)}"}}')
        case "divide":
            return Tool("calculator", f'{{"expression": "{call.number} / 0"}}')


def show(reply: Any) -> str:
    """A reply as a value of the program."""
    return str(msgspec.to_builtins(reply))[:60]


async def run(system: System, program: Program, values: Sequence[str] = ()) -> str:
    """The app: make the calls; its result is the last value."""
    known = list(values)
    for op in program:
        if isinstance(op, Gather):
            known += await system.gather(*(run(system, one, known) for one in op.branches))
            continue
        try:
            known.append(show(await system.call(make_request(op, known))))
        except SyscallError as error:
            known.append(error.code)
    return known[-1] if known else ""


def load(path: str) -> Program:
    """The program in a file."""
    return _decoder.decode(Path(path).read_bytes())


def save(program: Program, path: Path) -> None:
    """Write a program into a file."""
    path.write_bytes(msgspec.json.encode(program))


class Left(Exception):
    """A strand has left the journal."""


class Foresight:
    """A program's way along a journal: what it asks for, and where it leaves."""

    def __init__(self, rows: Sequence[JournalRow]) -> None:
        self._rows: Mapping[Key, JournalRow] = {(row.strand, row.seq): row for row in rows}
        self._unasked = dict.fromkeys(self._rows)
        self._num_children: dict[str, int] = {}
        self._num_calls: dict[str, int] = {}
        self.left: set[str] = set()  # steps

    def find_steps(self, program: Program) -> set[str]:
        """The steps at which a replay may say that it differs; empty for the same calls."""
        try:
            self._walk(program, (), "0")
        except Left:
            return self.left
        return {f"{strand}:{seq}" for strand, seq in list(self._unasked)[:1]}

    def _walk(self, program: Program, values: Sequence[str], strand: str) -> str:
        known = list(values)
        for op in program:
            if isinstance(op, Gather):
                known += self._branch(op, known, strand)
            else:
                known.append(self._ask(op, known, strand))
        return known[-1] if known else ""

    def _branch(self, gather: Gather, values: Sequence[str], strand: str) -> list[str]:
        """All branches are followed, for any may be the first to leave."""
        results, has_left = [], False
        first = self._num_children.get(strand, 0) + 1
        self._num_children[strand] = first + len(gather.branches) - 1
        for number, branch in enumerate(gather.branches, start=first):
            try:
                results.append(self._walk(branch, values, f"{strand}.{number}"))
            except Left:
                has_left = True
        if has_left:
            raise Left
        return results

    def _ask(self, call: Call, values: Sequence[str], strand: str) -> str:
        seq = self._num_calls.get(strand, 0)
        self._num_calls[strand] = seq + 1
        request, row = make_request(call, values), self._rows.get((strand, seq))
        entry = BY_REQUEST[type(request)]
        if row is None or (row.name, row.digest) != (entry.name, digest_call(request)):
            self.left.add(f"{strand}:{seq}")
            raise Left
        del self._unasked[strand, seq]
        if row.error is not None:
            return msgspec.msgpack.decode(row.error, type=ErrorReply).code
        assert row.result is not None
        return show(msgspec.msgpack.decode(row.result, type=entry.reply))
