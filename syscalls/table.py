"""The syscall table: name, request, reply, effect and capability of every call, as data.

The dispatcher, the SDK and the documentation are driven by it; adding a call is adding a row here
and a `sys_` function under kernel/handlers/.
"""

from typing import Literal, NamedTuple

import msgspec

from . import files, generate, ipc, memory, process, tool, values

Effect = Literal[
    "null",  # not journaled
    "pure",  # may run again; INTENT first, so that a restart knows what was under way
    "read",  # may run again; journaled when done
    "value",  # time and chance; journaled when done
    "transactional",  # effect and DONE row are one transaction
    "idempotent",  # INTENT durable first; an interrupted one runs again
    "once",  # INTENT durable first; an interrupted one is E_IN_DOUBT unless it can be reconciled
    "wait",  # INTENT durable first; an interrupted one waits on
    "tool",  # once, idempotent, transactional or read: as the tool declares
]
Capability = Literal[
    "none", "generate", "read_memory", "write_memory", "tool", "files", "children", "processes"
]


class Syscall(NamedTuple):
    """One row: what the call is named, carries, answers, does to the world, and needs."""

    name: str
    request: type[msgspec.Struct]
    reply: type[msgspec.Struct]
    effect: Effect
    capability: Capability


ROWS = (
    Syscall("getpid", process.GetPid, process.PidReply, "null", "none"),
    Syscall("generate", generate.Generate, generate.Generation, "pure", "generate"),
    Syscall("score", generate.Score, generate.Scores, "pure", "generate"),
    Syscall("embed", generate.Embed, generate.Embeddings, "pure", "generate"),
    Syscall("tool", tool.Tool, tool.ToolResult, "tool", "tool"),
    Syscall("context_create", memory.ContextCreate, memory.ContextCreated, "transactional", "none"),
    Syscall("context_append", memory.ContextAppend, memory.ContextLength, "transactional", "none"),
    Syscall("context_read", memory.ContextRead, memory.ContextMessages, "read", "none"),
    Syscall("remember", memory.Remember, memory.Remembered, "transactional", "write_memory"),
    Syscall("recall", memory.Recall, memory.Recalled, "read", "read_memory"),
    Syscall("forget", memory.Forget, memory.Forgotten, "transactional", "write_memory"),
    Syscall("spawn", process.Spawn, process.PidReply, "transactional", "children"),
    Syscall("wait", process.Wait, process.ProcessExit, "wait", "none"),
    Syscall("signal", process.Signal, process.Signalled, "idempotent", "processes"),
    Syscall("ps", process.Ps, process.ProcessList, "read", "processes"),
    Syscall("checkpoint", process.Checkpoint, process.Checkpointed, "transactional", "none"),
    Syscall("print", ipc.Print, ipc.Printed, "transactional", "none"),
    Syscall("ask", ipc.Ask, ipc.Answer, "wait", "none"),
    Syscall("now", values.Now, values.Time, "value", "none"),
    Syscall("sleep", values.Sleep, values.Slept, "wait", "none"),
    Syscall("random", values.Random, values.RandomNumber, "value", "none"),
    Syscall("uuid", values.Uuid, values.UuidText, "value", "none"),
    Syscall("patch", values.Patch, values.Patched, "value", "none"),
    Syscall("read_file", files.ReadFile, files.FileText, "read", "files"),
    Syscall("write_file", files.WriteFile, files.FileWritten, "idempotent", "files"),
    Syscall("list_files", files.ListFiles, files.FileList, "read", "files"),
)
TABLE: dict[str, Syscall] = {row.name: row for row in ROWS}
BY_REQUEST: dict[type[msgspec.Struct], Syscall] = {row.request: row for row in ROWS}
