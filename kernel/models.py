"""Models by name: which there are, the one driver that runs each of them, and which are loaded.

`demo` is the demonstration model that comes with llmos, `echo` repeats what it hears; every other
name is a folder or a hub id that transformers can load. Before a model is loaded there has to be
room for it: models that nobody uses leave, those first that were used longest ago. A model stays
loaded while it is in `using`; otherwise it may leave at any time, and is loaded again when needed.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec

import llmos
from llmos.syscalls.errors import E_MODEL

from .clock import Clock
from .config import Config
from .devices import HOST, Device, Holding, count_private_bytes, find_devices
from .drivers.driver import Driver, Grant, ModelInfo, Wait
from .drivers.echo import EchoDriver
from .drivers.local import LocalDriver
from .drivers.replicas import ReplicatedDriver
from .estimate import Estimate, estimate_model
from .fetching import fetch_model
from .modelfiles import find_folder, read_model_files
from .room import Plan, plan_load
from .terminal import Terminal

DEMO_FOLDER = Path(llmos.__file__).parent / "demo_model"
DESCRIPTIONS = {
    "demo": "the small demonstration model that comes with llmos",
    "echo": "repeats the last message; needs no weights",
}
_CHECKS_PER_IDLE_TIME = 4
FindDevices = Callable[[], tuple[Device, ...]]
MakeDriver = Callable[[str], Driver]
Fetch = Callable[[str], Awaitable[None]]


class Model:
    """One model: its driver, what it is while it is loaded, and what it holds and who uses it."""

    def __init__(self, driver: Driver, info: ModelInfo | None = None) -> None:
        self.driver = driver
        self.info = info
        self.loading = anyio.Lock()
        self.watching: set[Terminal] = set()  # those who know that it loads; the handlers' to add
        self.holdings: tuple[Holding, ...] = ()
        self.num_users = 0
        self.used_at = 0.0


class Models:
    """The models that are in use."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        *,
        find_devices: FindDevices = find_devices,
        make_driver: MakeDriver | None = None,
        fetch: Fetch | None = None,
    ) -> None:
        self._config = config
        self._clock = clock
        self._find_devices = find_devices
        self._make_driver = make_driver or self._make_replicated
        self._fetch = fetch or self._fetch_apart
        self._by_name: dict[str, Model] = {}
        self._placing = anyio.Lock()

    def get(self, name: str) -> Model:
        """The model of this name; it may not be loaded."""
        if name not in self._by_name:
            if name == "echo":
                echo = EchoDriver()
                self._by_name[name] = Model(echo, echo.info)
            else:
                self._by_name[name] = Model(self._make_driver(find_path(name)))
        return self._by_name[name]

    def _make_replicated(self, path: str) -> Driver:
        config = self._config
        log, dtype, pages = config.logs / "executor.log", config.dtype, config.pages
        return ReplicatedDriver(lambda: LocalDriver(path, log=log, dtype=dtype, page_folder=pages))

    async def _fetch_apart(self, path: str) -> None:
        await fetch_model(path, self._config.logs / "executor.log")

    @asynccontextmanager
    async def using(self, name: str, on_load: Callable[[], None]) -> AsyncIterator[Driver]:
        """The driver of a model that is loaded meanwhile; `on_load` if it has to be. E_MODEL."""
        model = self.get(name)
        model.num_users += 1
        try:
            if model.info is None:
                on_load()
            await self.load(name)
            yield model.driver
        finally:
            model.num_users -= 1
            model.used_at = self._clock.monotonic()

    async def load(self, name: str) -> ModelInfo:
        """Load a model if it is not. Several may wait at once. Raises E_MODEL."""
        model = self.get(name)
        async with model.loading:
            if model.info is None:
                try:
                    model.info = await self._load(name, model)
                finally:
                    model.watching.clear()
                    if model.info is None:
                        model.holdings = ()
            return model.info

    async def _load(self, name: str, model: Model) -> ModelInfo:
        """Fetch it if need be, find a place for it, and load it there."""
        if await anyio.to_thread.run_sync(find_folder, find_path(name)) is None:
            await self._fetch(find_path(name))
        info = await model.driver.start(await self._make_room(name, model))
        places = info.device.split(", ")
        model.holdings = tuple(one for one in model.holdings if one.device in places)
        model.used_at = self._clock.monotonic()
        return info

    async def _make_room(self, name: str, model: Model) -> tuple[Grant, ...]:
        """Where the model may be loaded, once idle ones have left for it. Raises E_MODEL."""
        async with self._placing:
            while True:
                plan = await anyio.to_thread.run_sync(self._plan, name, self.list_holdings())
                if not plan.leavers:
                    model.holdings = plan.holdings
                    return plan.grants
                for leaver in plan.leavers:
                    await self._unload(self._by_name[leaver])

    def _plan(self, name: str, holdings: tuple[Holding, ...]) -> Plan:
        """Where a model goes. Waits for the disk."""
        return plan_model(name, self._config, self._find_devices(), holdings)

    async def _unload(self, model: Model) -> None:
        """Let a model leave that nobody uses. Whoever wants it now waits and loads it again."""
        if model.info is None or model.num_users:
            return  # it was taken into use since
        model.info = None
        with anyio.CancelScope(shield=True):
            await model.driver.unload()
        model.holdings = ()

    async def run(self) -> None:
        """Let models leave that nobody has used for a while, until cancelled."""
        idle_seconds = self._config.model_idle_seconds
        while idle_seconds:
            await self._clock.sleep(idle_seconds / _CHECKS_PER_IDLE_TIME)
            async with self._placing:
                now = self._clock.monotonic()
                for model in tuple(self._by_name.values()):
                    if model.holdings and now - model.used_at >= idle_seconds:
                        await self._unload(model)

    def list_holdings(self) -> tuple[Holding, ...]:
        """What each model that is loaded, or about to be, has on each device."""
        return tuple(
            self._measure(model, holding)
            for model in tuple(self._by_name.values())
            for holding in model.holdings
        )

    def _measure(self, model: Model, holding: Holding) -> Holding:
        """A holding at this moment. What was granted of a GPU is taken by the time it is loaded."""
        if model.info is None:
            return holding
        taken_bytes = holding.granted_bytes
        if holding.device == HOST:
            taken_bytes = sum(map(count_private_bytes, model.driver.process_ids))
        return msgspec.structs.replace(
            holding,
            taken_bytes=taken_bytes,
            num_users=model.num_users,
            idle_seconds=self._clock.monotonic() - model.used_at,
        )

    def loaded(self) -> tuple[str, ...]:
        """The names of the models that are loaded."""
        return tuple(name for name, model in self._by_name.items() if model.info is not None)

    def pause(self, pid: int) -> None:
        """Hold a process's generations, wherever they run."""
        for model in self._by_name.values():
            model.driver.pause(pid)

    def resume(self, pid: int) -> None:
        """Let a process's generations go on."""
        for model in self._by_name.values():
            model.driver.resume(pid)

    def hint(self, pid: int, kind: Wait, expected_idle_seconds: float | None = None) -> None:
        """A process begins to wait, or has ended."""
        for model in self._by_name.values():
            model.driver.hint(pid, kind, expected_idle_seconds)

    async def aclose(self) -> None:
        """Give back every model."""
        for model in self._by_name.values():
            await model.driver.aclose()


def find_path(name: str) -> str:
    """The folder or hub id that a model's name stands for."""
    return str(DEMO_FOLDER) if name == "demo" else name


def plan_model(
    name: str, config: Config, devices: tuple[Device, ...], holdings: tuple[Holding, ...]
) -> Plan:
    """Where a model would go now. Raises E_MODEL."""
    estimates = estimate_on(name, choose_devices(config.device, devices), config.dtype)
    share, elsewhere = config.model_memory_share, ""
    if all(device.name != HOST for device, _ in estimates):
        elsewhere = "run it on the host with LLMOS_DEVICE=cpu"
    return plan_load(estimates, holdings, share, elsewhere=elsewhere)


def estimate_on(
    name: str, devices: tuple[Device, ...], dtype: str = "auto"
) -> list[tuple[Device, Estimate]]:
    """What a model needs on each of these devices.

    E_MODEL if its files are not here, or broken, or for a precision that a device cannot have.
    """
    folder = find_folder(find_path(name))
    if folder is None:
        run = f"llmos run --model {name} ask hello"
        raise E_MODEL(f"{name} is not on this machine; fix: give a folder, or fetch it: {run}")
    files = read_model_files(folder)
    return [(device, estimate_model(name, files, device, dtype)) for device in devices]


def choose_devices(wanted: str, devices: tuple[Device, ...]) -> tuple[Device, ...]:
    """The devices that a setting means: all GPUs, or one, or the host. Raises E_MODEL."""
    gpus = tuple(device for device in devices if device.name != HOST)
    match wanted:
        case "auto":
            chosen = gpus or devices
        case "cuda":
            chosen = gpus
        case _:
            chosen = tuple(device for device in devices if device.name == wanted)
    if not chosen:
        there = ", ".join(device.name for device in devices)
        raise E_MODEL(f"there is no device {wanted}; fix: LLMOS_DEVICE=auto, or one of {there}")
    return chosen
