"""A driver that runs a transformers model in an executor process of its own.

The process is started on demand, and again when it dies or hangs. Its generations then go on from
the tokens that have arrived, as one does that an earlier kernel began: prompt, tokens, seed and
position decide the next token, so that the text is that of an undisturbed run. Runs on asyncio;
every change of state is made at once, without waiting, and `_arrange` then tells the executor what
follows from it.
"""

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import TypeVar

import msgspec

from llmos.syscalls.errors import (
    E_CANCELLED,
    E_CONTEXT,
    E_MODEL,
    ErrorReply,
    SyscallError,
    raise_reply,
)

from ..executor.protocol import (
    MAX_FRAME_BYTES,
    BeginTrace,
    Cancel,
    Done,
    Embedded,
    EndTrace,
    Failed,
    Hint,
    Load,
    Output,
    Pause,
    Resume,
    Scored,
    Stats,
    Token,
)
from ..stats import StatsReply, TraceReply
from .driver import (
    EmbeddedTexts,
    EmbedJob,
    Generated,
    GenerationJob,
    Grant,
    Job,
    ModelInfo,
    ScoredTexts,
    ScoreJob,
    Wait,
    have_same_tokens,
)
from .life import LIMITS, Life, Limits
from .trial import End, Flight, Item, choose_running

_TOKEN_BYTES = 5  # of a token id in a frame, at most
_LEAVING_SECONDS = 10.0
_OTHER_BYTES = 65_536  # of a request beside its job and tokens
T = TypeVar("T")
_log = logging.getLogger(__name__)


class LocalDriver:
    """One model in one process. `log` receives what the process writes to standard error;
    `page_folder`, if any, keeps pages over its end."""

    def __init__(
        self,
        model: str,
        *,
        log: Path,
        dtype: str = "auto",
        max_model_len: int | None = None,
        page_folder: Path | None = None,
        limits: Limits = LIMITS,
    ) -> None:
        folder = None if page_folder is None else str(page_folder)
        self._load = Load(model, "auto", dtype, max_model_len, folder)
        self._log = log
        self._limits = limits
        self._starting = asyncio.Lock()
        self._tracing = asyncio.Lock()
        self._restarting: asyncio.Task[None] | None = None
        self._life: Life | None = None
        self._warnings: tuple[str, ...] | None = None  # until the model is loaded
        self._flights: dict[int, Flight] = {}
        self._paused: set[int] = set()
        self._ids = itertools.count(1)

    async def start(self, grants: tuple[Grant, ...] = (Grant(),)) -> ModelInfo:
        """Start the process and load the model, if that has not been done. Raises E_MODEL."""
        (grant,) = grants
        self._load = msgspec.structs.replace(
            self._load, device=grant.device, max_pool_bytes=grant.max_pool_bytes
        )
        loaded = (await self._get_life()).loaded
        return ModelInfo(
            name=self._load.model,
            driver="local",
            device=loaded.device,
            dtype=loaded.dtype,
            num_parameters=loaded.num_parameters,
            max_model_len=loaded.max_model_len,
            fingerprint=loaded.fingerprint,
        )

    async def _get_life(self) -> Life:
        async with self._starting:
            if self._life is None:
                self._life = life = await Life.start(self._load, self._log, self._limits)
                seconds = self._limits.count_step_seconds(life.loaded)
                life.attend(seconds, self._take, lambda: self._on_death(life))
                if self._warnings is None:
                    self._warnings = life.loaded.warnings
            return self._life

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The operating system's number of the process that runs now."""
        life = self._life
        return () if life is None or life.is_dead else (life.process_id,)

    @property
    def process_id(self) -> int | None:
        """The same for who knows that there is one at most."""
        return next(iter(self.process_ids), None)

    async def generate(self, job: GenerationJob) -> AsyncGenerator[Generated, None]:
        """Deltas, then Finished; closing it cancels within a step. Raises typed errors."""
        async with aclosing(self._fly(job)) as items:
            async for item in items:
                if isinstance(item, Generated):
                    yield item

    async def score(self, job: ScoreJob) -> ScoredTexts:
        """The scores; a cancel is told to the executor. Raises typed errors."""
        return await self._measure(job, ScoredTexts)

    async def embed(self, job: EmbedJob) -> EmbeddedTexts:
        """The vectors; a cancel is told to the executor. Raises typed errors."""
        return await self._measure(job, EmbeddedTexts)

    async def _measure(self, job: Job, kind: type[T]) -> T:
        async with aclosing(self._fly(job)) as items:
            async for item in items:
                if isinstance(item, kind):
                    return item
        raise AssertionError("a flight ends with its result or an error")

    async def _fly(self, job: Job) -> AsyncGenerator[Item, None]:
        """What comes of a job, to its end."""
        flight = Flight(next(self._ids), job)
        self._flights[flight.number] = flight
        self._arrange()
        try:
            while True:
                item = await flight.items.get()
                if isinstance(item, ErrorReply):
                    raise_reply(item)
                yield item
                if isinstance(item, End):
                    return
        finally:
            if self._flights.pop(flight.number, None):
                if flight.is_sent and self._life:
                    self._life.send(Cancel(flight.number))
                self._arrange()

    def pause(self, pid: int) -> None:
        """Take this process's generations out of the batch until `resume`."""
        self._paused.add(pid)
        self._arrange()

    def resume(self, pid: int) -> None:
        """Let this process's generations go on."""
        self._paused.discard(pid)
        self._arrange()

    def hint(self, pid: int, kind: Wait, expected_idle_seconds: float | None = None) -> None:
        """Tell the executor what the process's pages are worth from now."""
        if self._life:
            self._life.send(Hint(pid, kind, expected_idle_seconds))

    async def collect_stats(self) -> tuple[StatsReply, ...]:
        """What the executor counts since it was started; none while none runs. Raises E_MODEL."""
        life = self._life
        return () if life is None else (_check(await life.ask(Stats()), StatsReply),)

    async def trace(self, seconds: float) -> TraceReply | None:
        """A record of the next seconds' steps, one after another; None while no executor runs.

        Raises E_MODEL when the executor ends meanwhile.
        """
        async with self._tracing:
            life = self._life
            if life is None:
                return None
            life.send(BeginTrace())
            try:
                await asyncio.sleep(seconds)
            finally:
                answer = life.ask(EndTrace())
            return _check(await answer, TraceReply)

    def _arrange(self) -> None:
        """Tell the executor who runs now; start one if there is none.

        Who is held is told first, so that a suspect is alone from its first step on.
        """
        chosen = choose_running(self._flights.values(), self._paused)
        life = self._life
        if life is None:
            if chosen and self._restarting is None:
                self._restarting = asyncio.create_task(self._restart())
            return
        if life.is_dead:
            return  # _on_death is about to be called
        num_flights = len(self._flights)
        for flight in sorted(self._flights.values(), key=chosen.__contains__):
            self._place(life, flight, is_chosen=flight in chosen)
        life.has_work = any(flight.is_running for flight in self._flights.values())
        if len(self._flights) < num_flights:
            self._arrange()  # one could not be sent: the next may take its place

    def _place(self, life: Life, flight: Flight, *, is_chosen: bool) -> None:
        if not flight.is_sent:
            if is_chosen:
                self._submit(life, flight)
        elif flight.is_held == is_chosen:
            flight.is_held = not is_chosen
            life.send(Resume(flight.number) if is_chosen else Pause(flight.number))

    def _submit(self, life: Life, flight: Flight) -> None:
        """Send a generation with what it has so far, if this executor can go on with it and it is
        sure to fit in a frame."""
        job, window, fingerprint = flight.job, life.loaded.max_model_len, life.loaded.fingerprint
        if flight.tokens and not have_same_tokens(flight.fingerprint, fingerprint):
            reason = "the model's tokenizer changed since this text was begun"
            self._end(flight, E_MODEL(f"{reason}; fix: generate it again", partial=flight.text))
            return
        size_bytes = len(msgspec.msgpack.encode(job))
        max_tokens = job.sampling.max_tokens if isinstance(job, GenerationJob) else 0
        token_bytes = _TOKEN_BYTES * (window if max_tokens is None else min(window, max_tokens))
        room_bytes = MAX_FRAME_BYTES - min(token_bytes, MAX_FRAME_BYTES // 2) - _OTHER_BYTES
        if size_bytes > room_bytes:
            sizes = f"has {size_bytes} bytes; the executor takes {room_bytes}"
            error = E_CONTEXT(f"the conversation {sizes}, the window holds {window} tokens")
            self._end(flight, error)
            return
        for warning in self._warnings or ():
            flight.note(f"{self._name}: {warning}")
        self._warnings = ()
        flight.fingerprint = fingerprint
        life.send(flight.make_request())
        flight.is_sent = True

    @property
    def _name(self) -> str:
        return Path(self._load.model).name

    def _take(self, output: Output) -> None:
        """An output has come. Who ends or is cleared makes room for others."""
        flight = self._flights.get(output.id)
        if flight is None:
            return
        was_suspect = flight.is_suspect
        match output:
            case Token():
                flight.take(output)
                if was_suspect and not flight.is_suspect:
                    self._arrange()
                return
            case Done():
                flight.finish(output)
            case Scored() | Embedded():
                flight.measure(output)
            case Failed():
                flight.fail(output.error)
        del self._flights[flight.number]
        self._arrange()

    def _end(self, flight: Flight, error: SyscallError) -> None:
        del self._flights[flight.number]
        flight.fail(error.reply())

    def _on_death(self, life: Life) -> None:
        """The process is gone: find the culprit or the suspects, and start another one."""
        if self._life is not life:
            return  # it was closed
        way, self._life = life.obituary, None
        _log.warning("the executor of %s died (%s)", self._load.model, way)
        for flight in tuple(self._flights.values()):
            if flight.is_running and flight.is_suspect:
                reason = f"the executor died twice of this generation ({way}); see {self._log}"
                self._end(flight, E_MODEL(reason, partial=flight.text))
            elif flight.is_running:
                flight.accuse()
            flight.leave_executor()
        one_per_process = {flight.job.pid: flight for flight in self._flights.values()}
        for flight in one_per_process.values():
            flight.note(f"{self._name}: the executor died ({way}) and is started again")
        self._arrange()

    async def _restart(self) -> None:
        """Bring a process up for the generations that wait."""
        try:
            await self._get_life()
        except SyscallError as error:
            for flight in tuple(self._flights.values()):
                self._end(flight, error)
        self._restarting = None
        self._arrange()

    async def _stop_restarting(self) -> None:
        """Nobody waits for the process that is being started again."""
        restart, self._restarting = self._restarting, None
        if restart:
            restart.cancel()
            await asyncio.wait([restart])

    async def unload(self) -> None:
        """End the process in good order: pages that were to be kept are on disk afterwards."""
        await self._stop_restarting()
        life, self._life, self._warnings = self._life, None, None
        if life:
            await life.leave(_LEAVING_SECONDS)

    async def aclose(self) -> None:
        """End the process and with it every generation."""
        for flight in tuple(self._flights.values()):
            self._end(flight, E_CANCELLED("the model is given back", partial=flight.text))
        await self._stop_restarting()
        life, self._life = self._life, None
        if life:
            await life.aclose()


def _check(reply: object, kind: type[T]) -> T:
    if not isinstance(reply, kind):
        raise E_MODEL("the executor ended before it answered")
    return reply
