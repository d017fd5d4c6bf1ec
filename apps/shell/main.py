"""shell: runs apps line by line, in front or in the background.

An app like any other: it reaches the kernel by syscalls alone and has no rights of its own.
"""

from collections.abc import Awaitable, Callable
from difflib import get_close_matches
from typing import NamedTuple, get_args

from llmos import System, app
from llmos.syscalls.errors import E_ARG, SyscallError
from llmos.syscalls.process import ProcessExit, SignalName

from .line import parse_line

HELP = """\
APP WORDS...        run an app and wait for it (also: run APP WORDS...)
APP WORDS... &      run it in the background
jobs                the background jobs of this shell
fg [%JOB]           bring a job to the front: only there it may ask you something
ps                  all processes
kill [-s SIG] PID   signal a process, or a job: kill %1 (TERM, KILL, STOP, CONT)
wait                wait for the background jobs
help                this
exit                leave (or Ctrl-D)"""
MAX_LISTED = 1000


class Job(NamedTuple):
    """A child in the background."""

    number: int
    pid: int
    line: str


class Shell:
    """One session: the commands, and the jobs that it started and has not seen end."""

    def __init__(self, sys: System) -> None:
        self._sys = sys
        self._jobs: dict[int, Job] = {}
        self._leaving = False
        self._warned = False
        self.commands: dict[str, Callable[[list[str]], Awaitable[None]]] = {
            "run": self.run,
            "jobs": self.list_jobs,
            "fg": self.bring_to_front,
            "ps": self.list_processes,
            "kill": self.kill,
            "wait": self.wait,
            "help": self.help,
            "exit": self.exit,
        }

    async def serve(self) -> None:
        """Read and obey lines until exit or the end of input."""
        while not self._leaving:
            await self._report_ended_jobs()
            line = await self._sys.ask("llmos> ")
            try:
                await (self.obey(line) if line is not None else self.exit([]))
            except SyscallError as error:
                await self._sys.print(error.message)

    async def obey(self, line: str) -> None:
        """Do what a line says. Raises what is wrong with it."""
        words, background = parse_line(line)
        if not words:
            return
        if words[0] != "exit":
            self._warned = False
        if background:
            await self._start_job(words[1:] if words[0] == "run" else words, line)
        elif words[0] in self.commands:
            await self.commands[words[0]](words[1:])
        else:
            await self.run(words)

    # -- commands

    async def run(self, words: list[str]) -> None:
        """Run an app in front and wait for it."""
        pid = await self._spawn(words)
        ended = await self._sys.wait(pid, foreground=True)
        if ended.result and not ended.printed:
            await self._sys.print(ended.result)
        elif ended.code:
            await self._sys.print(f"{words[0]}: {describe(ended)}")

    async def list_jobs(self, words: list[str]) -> None:
        """Show the jobs that run."""
        for job in self._jobs.values():
            await self._sys.print(f"[{job.number}] {job.pid} {job.line}")

    async def bring_to_front(self, words: list[str]) -> None:
        """Give the terminal to a job, by default the newest, and wait for it."""
        pid = (
            self._find_pid(words[0])
            if words
            else max((job.pid for job in self._jobs.values()), default=0)
        )
        job = next((job for job in self._jobs.values() if job.pid == pid), None)
        if job is None:
            raise E_ARG(f"process {pid} is no job of this shell" if words else "there is no job")
        await self._sys.print(job.line)
        await self._report(job, foreground=True)

    async def list_processes(self, words: list[str]) -> None:
        """Show the live processes."""
        for info in await self._sys.ps(MAX_LISTED):
            if info.exit_status is None:
                command = " ".join((info.app, *info.argv))
                await self._sys.print(f"{info.pid:>6} {info.state:<8} {command}")

    async def kill(self, words: list[str]) -> None:
        """Signal a process or a job."""
        name = "TERM"
        if words[:1] == ["-s"]:
            name = words[1].upper().removeprefix("SIG") if len(words) > 1 else ""
            words = words[2:]
        if name not in get_args(SignalName) or len(words) != 1:
            raise E_ARG(f"usage: kill [-s {'|'.join(get_args(SignalName))}] PID or %JOB")
        pid = self._find_pid(words[0])
        if not await self._sys.signal(pid, name):  # type: ignore[arg-type]
            raise E_ARG(f"process {pid} is not running")

    async def wait(self, words: list[str]) -> None:
        """Wait for every job."""
        for job in tuple(self._jobs.values()):
            await self._report(job)

    async def help(self, words: list[str]) -> None:
        """Show the commands."""
        await self._sys.print(HELP)

    async def exit(self, words: list[str]) -> None:
        """Leave; jobs end with the shell, so the first time it only says so."""
        if self._jobs and not self._warned:
            self._warned = True
            count = len(self._jobs)
            await self._sys.print(f"{count} job(s) would end: `wait` for them, or exit again")
        else:
            self._leaving = True

    # -- children

    async def _spawn(self, words: list[str]) -> int:
        if not words:
            raise E_ARG("usage: run APP WORDS...")
        try:
            return await self._sys.spawn(words[0], *words[1:])
        except E_ARG as error:
            near = get_close_matches(words[0], self.commands, n=1, cutoff=0.7)
            if error.field != "app" or not near:
                raise
            raise E_ARG(f"there is no command {words[0]}; did you mean {near[0]}?") from None

    async def _start_job(self, words: list[str], line: str) -> None:
        pid = await self._spawn(words)
        job = Job(max(self._jobs, default=0) + 1, pid, line.strip().removesuffix("&").strip())
        self._jobs[job.number] = job
        await self._sys.print(f"[{job.number}] {pid}")

    async def _report_ended_jobs(self) -> None:
        """Say which jobs have ended since the last prompt."""
        if not self._jobs:
            return
        alive = {info.pid for info in await self._sys.ps(MAX_LISTED) if info.exit_status is None}
        for job in tuple(self._jobs.values()):
            if job.pid not in alive:
                await self._report(job)

    async def _report(self, job: Job, *, foreground: bool = False) -> None:
        """Wait for a job's end and say how it came."""
        ended = await self._sys.wait(job.pid, foreground=foreground)
        del self._jobs[job.number]
        await self._sys.print(f"[{job.number}] {describe(ended)}  {job.line}")
        if ended.result and not ended.printed:
            await self._sys.print(ended.result)

    def _find_pid(self, word: str) -> int:
        """A pid from a number or %JOB."""
        if word.startswith("%") and word[1:].isascii() and word[1:].isdigit():
            job = self._jobs.get(int(word[1:]))
            if job is None:
                raise E_ARG(f"there is no job {word}")
            return job.pid
        if not (word.isascii() and word.isdigit()):
            raise E_ARG(f"{word} is neither a pid nor %JOB")
        return int(word)


def describe(ended: ProcessExit) -> str:
    """How a child ended, in a few words."""
    if ended.status == "killed":
        return "killed"
    return ended.error or (f"exit code {ended.code}" if ended.code else "done")


@app
async def main(sys: System) -> None:
    """Read lines and run them until exit or the end of input."""
    await Shell(sys).serve()
