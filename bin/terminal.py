"""A terminal at work: runs one process, shows what it writes, answers what it asks.

The first Ctrl-C asks the process in front to stop and its words so far stay on the screen; the
second leaves at once. A question starts the count anew. While a reader pauses nothing is taken from
the kernel, until Ctrl-C: then the end of the process counts more than words that nobody reads.
"""

import signal
from contextlib import suppress
from functools import partial

import anyio
from anyio.abc import TaskGroup

from llmos.kernel.protocol import (
    Asked,
    Ended,
    Fork,
    Input,
    Interrupt,
    Logged,
    Notice,
    Output,
    Refused,
    Resume,
    Run,
    Started,
    ToolRan,
    Withdrawn,
)
from llmos.syscalls.errors import E_KERNEL, SyscallError, raise_reply

from .connection import Connection, KernelGone
from .failure import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_KILLED, show_error, show_failure
from .outlet import Outlet
from .prompt import Interrupted, Prompt
from .screen import Screen


class Question:
    """A question on its way to an answer. `scope` ends it; then `ended` is set."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.is_shown = False
        self.scope = anyio.CancelScope()
        self.ended = anyio.Event()


class Terminal:
    """One process at one terminal. With `keep`, Ctrl-C at its own prompt only clears the line."""

    def __init__(
        self, connection: Connection, outlet: Outlet, prompt: Prompt, *, keep: bool = False
    ) -> None:
        self._connection = connection
        self._outlet = outlet
        self._screen = Screen(outlet)
        self._prompt = prompt
        self._keep = keep
        self._pid = 0
        self._last_pid = 0
        self._questions: dict[int, Question] = {}
        self._num_questions = 0  # on the screen
        self._one_at_a_time = anyio.Lock()
        self._unfinished: dict[int, str] = {}  # last lines of what writes behind a question
        self._num_interrupts = 0
        self._interrupted = False

    async def run(self, request: Run | Resume | Fork) -> int:
        """Run a process to its end; returns the exit code.

        A refusal is raised as its error, E_KERNEL when the kernel goes away before the end.
        """
        code, failure = EXIT_INTERRUPTED, None
        await self._connection.send(request)
        async with anyio.create_task_group() as group:
            group.start_soon(self._watch_interrupts, group)
            try:
                code = await self._show_events(group)
            except SyscallError as error:
                failure = error
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return code

    async def _show_events(self, group: TaskGroup) -> int:
        while True:
            await self._outlet.wait_for_room()
            try:
                event = await self._connection.receive()
            except E_KERNEL as error:
                raise self._lost(error) from None
            match event:
                case Started():
                    self._pid = event.pid
                case Output():
                    self._write(event.pid, event.text)
                case Asked():
                    self._num_interrupts = 0
                    self._outlet.hurry(False)
                    question = self._questions[event.ask] = Question(event)
                    group.start_soon(self._answer, question)
                case Withdrawn():
                    await self._withdraw(event.ask)
                case ToolRan():
                    note = partial(self._screen.note_tool, event.name, event.arguments, event.text)
                    note(failed=event.failed, seconds=event.seconds)
                case Logged():
                    self._screen.write_log(event.text)
                case Notice():
                    self._screen.note(event.text)
                case Refused():
                    raise_reply(event.error)
                case Ended():
                    return await self._finish(event)

    def _write(self, pid: int, text: str) -> None:
        """Show words as they come; what is written behind a question is shown line by line."""
        if self._num_questions or pid in self._unfinished:
            lines, newline, rest = (self._unfinished.get(pid, "") + text).rpartition("\n")
            self._unfinished[pid] = rest
            text = lines + newline
        if pid != self._last_pid:
            self._screen.start_line()
        self._last_pid = pid
        self._screen.write(text)

    def _lost(self, error: E_KERNEL) -> E_KERNEL:
        """What to say when the kernel has died under the process."""
        self._screen.start_line()
        if not self._pid:
            return error
        return E_KERNEL(f"{error.message}; fix: llmos run --resume {self._pid}")

    async def _finish(self, ended: Ended) -> int:
        """Show how it ended; returns the exit code."""
        exit = ended.exit
        for rest in self._unfinished.values():
            self._screen.write(rest)
        if exit.status == "exited" and not exit.printed and exit.result:
            self._screen.write(exit.result)
            self._screen.write("" if exit.result.endswith("\n") else "\n")
        self._screen.start_line()
        await self._outlet.flush()
        if self._interrupted and exit.status == "killed":
            show_failure("interrupted")
            return EXIT_INTERRUPTED
        if ended.error is not None:
            show_error(ended.error)
            return exit.code or EXIT_FAILED
        if exit.status == "killed":
            show_failure(f"process {exit.pid} was killed")
            return exit.code or EXIT_KILLED
        if exit.status == "failed":
            show_failure(exit.result or "the app failed", f"llmos log {exit.pid}")
            return exit.code or EXIT_FAILED
        return exit.code

    async def _answer(self, question: Question) -> None:
        """Put a question to the person and send the answer."""
        with question.scope:
            async with self._one_at_a_time:
                self._num_questions += 1
                question.is_shown = True
                try:
                    while not await self._put(question.asked):
                        pass  # the line was cleared
                finally:
                    self._num_questions -= 1
        del self._questions[question.asked.ask]
        question.ended.set()

    async def _withdraw(self, number: int) -> None:
        """Take a question off the screen; one that was answered has left it."""
        question = self._questions.get(number)
        if question is None:
            return
        question.scope.cancel()
        await question.ended.wait()
        pid, prompt = question.asked.pid, question.asked.prompt
        if question.is_shown and pid != self._pid:
            self._screen.note(f"process {pid} no longer asks: {prompt.strip()}")

    async def _put(self, asked: Asked) -> bool:
        """Ask once; False if it has to be asked again."""
        self._screen.start_line()
        own = asked.pid == self._pid
        await self._outlet.flush()
        try:
            text = await self._prompt.ask(asked.prompt, asked.choices, own=own)
        except Interrupted as interrupted:
            if interrupted.typed or (self._keep and own):
                return False
            await self._interrupt()
        else:
            await self._connection.send(Input(asked.ask, text))
        return True

    async def _watch_interrupts(self, group: TaskGroup) -> None:
        with anyio.open_signal_receiver(signal.SIGINT) as signals:
            async for _ in signals:
                if self._num_interrupts:
                    group.cancel_scope.cancel()
                    return
                await self._interrupt()

    async def _interrupt(self) -> None:
        self._num_interrupts += 1
        self._interrupted = True
        self._outlet.hurry()
        with suppress(KernelGone):  # which whoever reads from it sees as well
            await self._connection.send(Interrupt())


async def run_detached(connection: Connection, request: Run | Fork) -> int:
    """Start a process that needs no terminal; returns its pid."""
    return (await connection.request(request, Started)).pid
