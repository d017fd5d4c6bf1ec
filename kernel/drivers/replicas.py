"""A model on several devices: one driver each, and every job goes to one of them.

A job goes where its process ran last, or where a relative of it did: its pages are there. It goes
elsewhere when that replica is much busier than another, since waiting in line takes longer than
computing pages again, and when no executor runs there: it died, and may not come up again.
"""

import logging
import math
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager

import anyio
import msgspec

from llmos.syscalls.errors import E_MODEL, SyscallError

from ..stats import StatsReply, TraceReply
from .driver import (
    Driver,
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
)

MUCH_BUSIER_FACTOR = 2
MUCH_BUSIER_MARGIN = 4
MAX_HOMES = 4096
_log = logging.getLogger(__name__)


def choose_replica(num_jobs: Sequence[float], home: int | None) -> int:
    """The replica for a job whose pages are on `home`, when so many jobs are on each of them;
    infinitely many where none may go."""
    least = min(range(len(num_jobs)), key=lambda index: num_jobs[index])
    if home is None:
        return least
    limit = MUCH_BUSIER_FACTOR * num_jobs[least] + MUCH_BUSIER_MARGIN
    return home if num_jobs[home] <= limit else least


class Homes:
    """On which replica each process's pages are, those of the last MAX_HOMES processes."""

    def __init__(self) -> None:
        self._replica_of: dict[int, int] = {}

    def find(self, pid: int, root: int) -> int | None:
        """Where the process ran last, or else a relative of it."""
        return self._replica_of.get(pid, self._replica_of.get(root))

    def put(self, pid: int, root: int, replica: int) -> None:
        """The process runs there now. Its relatives begin there, unless they have a home."""
        self._replica_of.setdefault(root, replica)
        self._replica_of.pop(pid, None)
        self._replica_of[pid] = replica
        while len(self._replica_of) > MAX_HOMES:
            del self._replica_of[next(iter(self._replica_of))]

    def forget(self, pid: int) -> None:
        """The process has ended."""
        self._replica_of.pop(pid, None)


class Replica:
    """One driver and its place, and how many jobs it has that run or wait."""

    def __init__(self, driver: Driver, grant: Grant) -> None:
        self.driver = driver
        self._grant = grant
        self.info: ModelInfo | None = None
        self.failure: SyscallError | None = None
        self.num_jobs = 0

    async def start(self) -> None:
        """Load the model here, or know why not."""
        try:
            self.info = await self.driver.start((self._grant,))
        except SyscallError as error:
            _log.warning("no replica on %s: %s", self._grant.device, error.message)
            self.failure = error

    @contextmanager
    def working(self) -> Iterator[Driver]:
        """A job is here meanwhile."""
        self.num_jobs += 1
        try:
            yield self.driver
        finally:
            self.num_jobs -= 1


class ReplicatedDriver:
    """The same model in each place that it is granted; `make` makes the driver of one."""

    def __init__(self, make: Callable[[], Driver]) -> None:
        self._make = make
        self.replicas: tuple[Replica, ...] = ()
        self._homes = Homes()
        self._paused: set[int] = set()

    async def start(self, grants: tuple[Grant, ...] = (Grant(),)) -> ModelInfo:
        """Load it everywhere at once; a place where that fails is done without.

        Raises E_MODEL if no place is left.
        """
        replicas = [Replica(self._make(), grant) for grant in grants]
        running: tuple[Replica, ...] = ()
        try:
            async with anyio.create_task_group() as tasks:
                for replica in replicas:
                    tasks.start_soon(replica.start)
            running = tuple(replica for replica in replicas if replica.info)
        finally:
            with anyio.CancelScope(shield=True):
                for replica in replicas:
                    if replica not in running:
                        await replica.driver.aclose()
        infos = [replica.info for replica in running if replica.info]
        if not infos:
            raise next(replica.failure for replica in replicas if replica.failure)
        self._homes, self.replicas = Homes(), running
        for pid in self._paused:
            self.pause(pid)
        devices = ", ".join(info.device for info in infos)
        return msgspec.structs.replace(infos[0], device=devices)

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Those of all replicas."""
        return tuple(one for replica in self.replicas for one in replica.driver.process_ids)

    def _choose(self, job: Job) -> Replica:
        if not self.replicas:
            raise E_MODEL("the model is not loaded")
        is_up = [bool(replica.driver.process_ids) for replica in self.replicas]
        num_jobs = [
            replica.num_jobs if up or not any(is_up) else math.inf
            for replica, up in zip(self.replicas, is_up, strict=True)
        ]
        chosen = choose_replica(num_jobs, self._homes.find(job.pid, job.root))
        self._homes.put(job.pid, job.root, chosen)
        return self.replicas[chosen]

    async def generate(self, job: GenerationJob) -> AsyncGenerator[Generated, None]:
        """What the chosen replica's driver gives."""
        with self._choose(job).working() as driver:
            async with aclosing(driver.generate(job)) as items:
                async for item in items:
                    yield item

    async def score(self, job: ScoreJob) -> ScoredTexts:
        """What the chosen replica's driver gives."""
        with self._choose(job).working() as driver:
            return await driver.score(job)

    async def embed(self, job: EmbedJob) -> EmbeddedTexts:
        """What the chosen replica's driver gives."""
        with self._choose(job).working() as driver:
            return await driver.embed(job)

    def pause(self, pid: int) -> None:
        """Hold this process's jobs, wherever they are or come to be."""
        self._paused.add(pid)
        for replica in self.replicas:
            replica.driver.pause(pid)

    def resume(self, pid: int) -> None:
        """Let this process's jobs go on."""
        self._paused.discard(pid)
        for replica in self.replicas:
            replica.driver.resume(pid)

    def hint(self, pid: int, kind: Wait, expected_idle_seconds: float | None = None) -> None:
        """Pages of the process may be on any replica."""
        if kind == "gone":
            self._homes.forget(pid)
        for replica in self.replicas:
            replica.driver.hint(pid, kind, expected_idle_seconds)

    async def collect_stats(self) -> tuple[StatsReply, ...]:
        """Those of every replica."""
        found = [await replica.driver.collect_stats() for replica in self.replicas]
        return tuple(stats for several in found for stats in several)

    async def trace(self, seconds: float) -> TraceReply | None:
        """A record of the replica with the most jobs now."""
        busiest = max(self.replicas, key=lambda replica: replica.num_jobs, default=None)
        return None if busiest is None else await busiest.driver.trace(seconds)

    async def unload(self) -> None:
        """Give back the memory of all replicas."""
        replicas, self.replicas = self.replicas, ()
        async with anyio.create_task_group() as tasks:
            for replica in replicas:
                tasks.start_soon(replica.driver.unload)

    async def aclose(self) -> None:
        """End every job and give back whatever the replicas hold."""
        replicas, self.replicas = self.replicas, ()
        for replica in replicas:
            await replica.driver.aclose()
