"""The table of syscalls: complete, documented, and every row speaks the wire."""

import re
from typing import Any, get_args

import msgspec
import pytest

from llmos.syscalls import files, generate, ipc, memory, process, table, tool, values
from llmos.syscalls.client import System
from llmos.syscalls.table import BY_REQUEST, ROWS, TABLE, Syscall
from llmos.syscalls.types import Message, TokenScore, ToolCall, Usage
from llmos.syscalls.wire import decode, encode

NAMES = [row.name for row in ROWS]
EXAMPLES: tuple[msgspec.Struct, ...] = (
    process.GetPid(),
    process.PidReply(1),
    generate.Generate((Message("user", "hi"),), tools=("clock",), stream=True),
    generate.Generation("", (ToolCall("clock", "{}"),), "tool_calls", Usage(1, 0, 1), "echo", 5),
    generate.Score((Message("user", "hi"),), ("yes", "no")),
    generate.Scores(
        (generate.TextScore(-0.5, (TokenScore(3, "yes", -0.5),)),), Usage(2, 0, 0), "m"
    ),
    generate.Embed(("one", "two")),
    generate.Embeddings((b"\x00\x00\x80?",), Usage(1, 0, 0), "m"),
    tool.Tool("clock"),
    tool.ToolResult("noon", truncated=True),
    memory.ContextCreate((Message("system", "be brief"),)),
    memory.ContextCreated(1),
    memory.ContextAppend(1, (Message("user", "hi"),)),
    memory.ContextLength(2),
    memory.ContextRead(1),
    memory.ContextMessages((Message("tool", "noon", name="clock", tool_call_id="c"),)),
    memory.Remember("a fact", "fact", space="notes"),
    memory.Remembered("uid"),
    memory.Recall("what?"),
    memory.Recalled((memory.Note("uid", "a fact", 0.5, "fact", "notes", "", 1.0),)),
    memory.Forget("uid"),
    memory.Forgotten(existed=True),
    process.Spawn("ask", ("why?",), "echo"),
    process.Wait(1, foreground=True),
    process.ProcessExit(1, "exited", 0, "done"),
    process.Signal(1, "KILL"),
    process.Signalled(delivered=False),
    process.Ps(),
    process.Checkpoint(("2", "more")),
    process.Checkpointed(("2", "more"), Usage(10, 0, 3)),
    process.ProcessList(
        (process.ProcessInfo(1, None, "ask", (), "READY", "echo", 1.0, None, None, None, 0, 0),)
    ),
    ipc.Print("é\n"),
    ipc.Printed(0),
    ipc.Ask("name?", ("a", "b")),
    ipc.Answer(None),
    values.Now(),
    values.Time(1.5),
    values.Sleep(0.0),
    values.Slept(),
    values.Random(),
    values.RandomNumber(0.25),
    values.Uuid(),
    values.Patch("sum", 2),
    values.Patched(applies=True),
    values.UuidText("x"),
    files.ReadFile("a.txt"),
    files.FileText("text", more=False),
    files.WriteFile("a.txt", ""),
    files.FileWritten(0),
    files.ListFiles(),
    files.FileList(("a", "b/")),
)


def test_names_are_words_and_come_once() -> None:
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in NAMES)
    assert len(set(NAMES)) == len(ROWS) == len(TABLE)


def test_a_request_belongs_to_one_row() -> None:
    assert len(BY_REQUEST) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_every_row_says_what_it_does_in_known_words(row: Syscall) -> None:
    assert row.effect in get_args(table.Effect)
    assert row.capability in get_args(table.Capability)


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_requests_and_replies_are_documented(row: Syscall) -> None:
    for kind in (row.request, row.reply):
        assert kind.__doc__
        assert kind.__doc__.splitlines()[0].endswith((".", ":"))


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_every_call_stands_in_its_modules_docstring(row: Syscall) -> None:
    modules = (files, generate, ipc, memory, process, tool, values)
    (module,) = (module for module in modules if module.__name__ == row.request.__module__)

    name = "context" if row.name.startswith("context_") else f"`{row.name}`"
    assert name in (module.__doc__ or "")


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_every_call_has_a_method_of_the_sdk(row: Syscall) -> None:
    name = "context" if row.name.startswith("context_") else row.name

    assert getattr(System, name).__doc__


def test_every_request_and_reply_has_an_example() -> None:
    kinds = {kind for row in ROWS for kind in (row.request, row.reply)}

    assert {type(example) for example in EXAMPLES} == kinds


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_what_is_sent_is_what_arrives(example: msgspec.Struct) -> None:
    decoder: Any = msgspec.msgpack.Decoder(type(example))

    assert decode(encode(example), decoder) == example


@pytest.mark.parametrize("row", ROWS, ids=NAMES)
def test_requests_cannot_be_changed_after_they_were_made(row: Syscall) -> None:
    assert row.request.__struct_config__.frozen
    assert row.reply.__struct_config__.frozen
