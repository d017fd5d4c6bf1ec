"""The SDK: every method of `System` is a syscall, `Context` is a conversation, `app` marks main."""

import inspect
import json
import struct
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NoReturn, TypeVar, overload

from . import files, generate, ipc, memory, process, structured, tool, values
from .calls import Caller, OnText
from .errors import E_ARG, SyscallError
from .generate import Generation, TextScore
from .types import Message, Sampling

MAX_TOOL_ROUNDS = 8
T = TypeVar("T")
Main = TypeVar("Main", bound=Callable[..., Coroutine[Any, Any, object]])


def app(main: Main) -> Main:
    """Mark an app's entry point: an async function whose first parameter is the System."""
    if not inspect.iscoroutinefunction(main):
        raise TypeError(f"@app needs an async function; {main.__name__} is not")
    if not inspect.signature(main).parameters:
        raise TypeError(f"@app needs a function of the system; {main.__name__} has no parameter")
    return main


def _require_several(texts: Sequence[str], field: str) -> tuple[str, ...]:
    """One text is a sequence too, of its characters: E_ARG says what was meant."""
    if isinstance(texts, str):
        raise E_ARG(f"{field} is one text; fix: put it into a list", field=field)
    return tuple(texts)


class System(Caller):
    """The kernel as an app sees it. Every method is one syscall unless it says otherwise."""

    # -- text

    @overload
    async def generate(
        self, prompt: str | Sequence[Message], *, schema: type[T], **options: Any
    ) -> structured.Structured[T]: ...
    @overload
    async def generate(
        self, prompt: str | Sequence[Message], *, schema: dict[str, Any], **options: Any
    ) -> structured.Structured[Any]: ...
    @overload
    async def generate(
        self, prompt: str | Sequence[Message], *, schema: None = None, **options: Any
    ) -> Generation: ...

    async def generate(
        self,
        prompt: str | Sequence[Message],
        *,
        schema: Any = None,
        regex: str | None = None,
        grammar: str | None = None,
        system: str | None = None,
        context: int | None = None,
        tools: Sequence[str] = (),
        tool_choice: str = "auto",
        model: str | None = None,
        show: bool = False,
        on_text: OnText | None = None,
        n: int = 1,
        **sampling: Any,
    ) -> Generation:
        """Continue a conversation. Other keyword arguments are the fields of Sampling.

        The whole answer fits the `schema` (a msgspec type, or a dict), the `regex` or the `grammar`
        (Lark). With a schema the result has a `value`: E_LIMIT if max_tokens cut it off.
        """
        messages = self._gather_messages(prompt, system)
        if isinstance(sampling.get("stop"), list):
            sampling["stop"] = tuple(sampling["stop"])
        request = generate.Generate(
            messages,
            context,
            tuple(tools),
            Sampling(**sampling),
            model,
            on_text is not None,
            show,
            structured.write_grammar(schema, regex, grammar),
            tool_choice,
            n,
        )
        reply: Generation = await self.call(request, on_text)
        return reply if schema is None else structured.read_objects(reply, schema)

    async def score(
        self,
        prompt: str | Sequence[Message],
        continuations: Sequence[str],
        *,
        system: str | None = None,
        context: int | None = None,
        model: str | None = None,
    ) -> tuple[TextScore, ...]:
        """How likely each continuation is as the beginning of the answer, in their order."""
        messages = self._gather_messages(prompt, system)
        texts = _require_several(continuations, "continuations")
        request = generate.Score(messages, texts, context, model)
        reply: generate.Scores = await self.call(request)
        return reply.scores

    async def embed(
        self, texts: Sequence[str], *, model: str | None = None
    ) -> tuple[tuple[float, ...], ...]:
        """A vector of length 1 for each text. A call for every MAX_EMBEDDED_TEXTS texts."""
        vectors: list[tuple[float, ...]] = []
        several = _require_several(texts, "texts")
        for start in range(0, len(several), generate.MAX_EMBEDDED_TEXTS):
            part = several[start : start + generate.MAX_EMBEDDED_TEXTS]
            reply: generate.Embeddings = await self.call(generate.Embed(part, model))
            for vector in reply.vectors:
                vectors.append(struct.unpack(f"<{len(vector) // 4}f", vector))
        return tuple(vectors)

    @staticmethod
    def _gather_messages(
        prompt: str | Sequence[Message], system: str | None
    ) -> tuple[Message, ...]:
        messages = (Message("user", prompt),) if isinstance(prompt, str) else tuple(prompt)
        return messages if system is None else (Message("system", system), *messages)

    async def context(self, system: str | None = None) -> "Context":
        """Start a stored context, with a system message if one is given."""
        first = (Message("system", system),) if system else ()
        created: memory.ContextCreated = await self.call(memory.ContextCreate(first))
        return Context(self, created.context)

    async def tool(self, name: str, **arguments: Any) -> str:
        """Call a tool; its arguments are keywords."""
        result: tool.ToolResult = await self.call(tool.Tool(name, json.dumps(arguments)))
        return result.text

    # -- memory

    async def remember(
        self, text: str, *, kind: memory.NoteKind = "note", role: str = "", space: str | None = None
    ) -> str:
        """Keep a note; returns its uid."""
        kept: memory.Remembered = await self.call(memory.Remember(text, kind, role, space))
        return kept.uid

    async def recall(
        self, query: str, *, limit: int = 8, space: str | None = None
    ) -> tuple[memory.Note, ...]:
        """The notes that answer a query, best first."""
        found: memory.Recalled = await self.call(memory.Recall(query, limit, space))
        return found.notes

    async def forget(self, uid: str, *, space: str | None = None) -> bool:
        """Make a note unfindable; False if there was none."""
        gone: memory.Forgotten = await self.call(memory.Forget(uid, space))
        return gone.existed

    # -- people

    async def print(self, *parts: object, end: str = "\n") -> None:
        """Write to the process's output, like the builtin."""
        await self.call(ipc.Print(" ".join(map(str, parts)) + end))

    async def ask(self, prompt: str = "", *, choices: Sequence[str] = ()) -> str | None:
        """Ask a person for a line; None at the end of input."""
        answer: ipc.Answer = await self.call(ipc.Ask(prompt, tuple(choices)))
        return answer.text

    # -- processes

    async def getpid(self) -> int:
        """This process's number."""
        reply: process.PidReply = await self.call(process.GetPid())
        return reply.pid

    async def spawn(self, app: str, *argv: str, model: str | None = None) -> int:
        """Start an app as a child; returns its pid."""
        reply: process.PidReply = await self.call(process.Spawn(app, argv, model))
        return reply.pid

    async def wait(self, pid: int, *, foreground: bool = False) -> process.ProcessExit:
        """Wait for a child's end; a child that asks the person something needs `foreground`."""
        reply: process.ProcessExit = await self.call(process.Wait(pid, foreground))
        return reply

    async def signal(self, pid: int, name: process.SignalName = "TERM") -> bool:
        """Send a signal; False if the process had ended."""
        reply: process.Signalled = await self.call(process.Signal(pid, name))
        return reply.delivered

    async def ps(self, limit: int = 100) -> tuple[process.ProcessInfo, ...]:
        """The newest processes, newest last."""
        reply: process.ProcessList = await self.call(process.Ps(limit))
        return reply.processes

    async def checkpoint(self, *argv: str) -> NoReturn:
        """Begin anew: main from its start, with these arguments and an empty journal.

        Contexts, notes, output, children and usage stay. It never returns: main is cancelled, its
        `finally` blocks run, and calls in them are refused. E_BUSY while other calls are under way.
        """
        await self.call(process.Checkpoint(argv))
        raise AssertionError("the kernel does not answer a checkpoint")

    # -- time and chance

    async def now(self) -> float:
        """Unix seconds."""
        reply: values.Time = await self.call(values.Now())
        return reply.unix_seconds

    async def sleep(self, seconds: float) -> None:
        """Wait; a restart waits only for the rest."""
        await self.call(values.Sleep(seconds))

    async def random(self) -> float:
        """A number in [0, 1)."""
        reply: values.RandomNumber = await self.call(values.Random())
        return reply.number

    async def uuid(self) -> str:
        """A version 4 UUID."""
        reply: values.UuidText = await self.call(values.Uuid())
        return reply.text

    # -- files

    async def read_file(self, path: str) -> str:
        """The whole text of a workspace file, read part by part."""
        parts: list[str] = []
        more, offset = True, 0
        while more:
            part: files.FileText = await self.call(files.ReadFile(path, offset))
            parts.append(part.text)
            offset += len(part.text)
            more = part.more
        return "".join(parts)

    async def write_file(self, path: str, text: str) -> int:
        """Replace a workspace file; returns its size in bytes."""
        reply: files.FileWritten = await self.call(files.WriteFile(path, text))
        return reply.size_bytes

    async def list_files(self, path: str = ".") -> tuple[str, ...]:
        """The names in a workspace folder."""
        reply: files.FileList = await self.call(files.ListFiles(path))
        return reply.names


class Context:
    """A stored conversation. It belongs to its process and survives it in the store."""

    def __init__(self, system: System, number: int) -> None:
        self.number = number
        self._system = system

    async def append(self, *messages: Message) -> None:
        """Store messages at the end."""
        await self._system.call(memory.ContextAppend(self.number, messages))

    async def user(self, text: str) -> None:
        """Store a user message."""
        await self.append(Message("user", text))

    async def messages(self) -> tuple[Message, ...]:
        """All messages in order."""
        reply: memory.ContextMessages = await self._system.call(memory.ContextRead(self.number))
        return reply.messages

    async def generate(
        self, prompt: str | None = None, *, schema: Any = None, **options: Any
    ) -> Any:
        """The answer to what is stored, and to `prompt` after it; neither is stored.

        A Generation; with a `schema`, the object that was answered.
        """
        turn = [] if prompt is None else [Message("user", prompt)]
        answer = await self._system.generate(turn, context=self.number, schema=schema, **options)
        return answer.value if isinstance(answer, structured.Structured) else answer

    async def respond(
        self,
        text: str,
        *,
        prompt: str | None = None,
        tools: Sequence[str] = (),
        show: bool = False,
        **sampling: Any,
    ) -> str:
        """Answer a user's message: generate, run the tools that are called, until there is text.

        `prompt` is what the model sees in place of `text` for this turn (recalled notes and all);
        what is stored is `text`, the calls, their results and the answer. Several syscalls.
        """
        turn = [Message("user", prompt or text)]
        answer = await self._round(turn, tools, show, sampling)
        for _ in range(MAX_TOOL_ROUNDS):
            if not answer.tool_calls:
                break
            turn += await self._run_tools(answer)
            answer = await self._round(turn, tools, show, sampling)
        turn += [Message("assistant", answer.text)]
        await self.append(Message("user", text), *turn[1:])
        return answer.text

    async def _round(
        self, turn: list[Message], tools: Sequence[str], show: bool, sampling: dict[str, Any]
    ) -> Generation:
        answer: Generation = await self._system.generate(
            turn, context=self.number, tools=tools, show=show, **sampling
        )
        return answer

    async def _run_tools(self, answer: Generation) -> list[Message]:
        """The calls and their results as messages; a tool's error is a result the model reads."""
        messages = [Message("assistant", answer.text, answer.tool_calls)]
        for wish in answer.tool_calls:
            try:
                result: tool.ToolResult = await self._system.call(
                    tool.Tool(wish.name, wish.arguments)
                )
                text = result.text
            except SyscallError as error:
                text = f"error: {error.message}"
            messages.append(Message("tool", text, name=wish.name, tool_call_id=wish.id))
        return messages
