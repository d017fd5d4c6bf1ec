"""Models by name: one driver each, loaded once whoever asks, and gone when nobody does."""

import json
import os
import shutil
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path

import anyio
import anyio.lowlevel
import msgspec
import pytest

from llmos.kernel.clock import VirtualClock
from llmos.kernel.config import Config
from llmos.kernel.devices import Device
from llmos.kernel.drivers.driver import GenerationJob, Grant, ModelInfo, TextDelta
from llmos.kernel.drivers.echo import EchoDriver
from llmos.kernel.drivers.replicas import ReplicatedDriver
from llmos.kernel.models import DEMO_FOLDER, DESCRIPTIONS, Models, choose_devices
from llmos.kernel.terminal import Terminal
from llmos.syscalls.errors import E_MODEL
from llmos.syscalls.tasks import running
from llmos.syscalls.types import Message

pytestmark = pytest.mark.anyio
GIB = 1 << 30


class Machine:
    """A machine of numbers: `free` by device, of which loaded models take their share."""

    def __init__(self, **free: int) -> None:
        self.total = dict(free)
        self.taken: dict[str, dict[str, int]] = {name: {} for name in free}
        self.events: list[str] = []

    def find_devices(self) -> tuple[Device, ...]:
        return tuple(
            Device(name.replace("cuda", "cuda:"), name, total, total - self._count_taken(name))
            for name, total in self.total.items()
        )

    def _count_taken(self, name: str) -> int:
        return sum(self.taken[name].values())

    def make_driver(self, path: str) -> "Weighty":
        return Weighty(self, path)


class Weighty(EchoDriver):
    """Answers as echo does, and takes the memory of a machine of numbers while it is loaded."""

    def __init__(self, machine: Machine, path: str) -> None:
        super().__init__()
        self._machine, self._name = machine, Path(path).name
        self.grants: tuple[Grant, ...] = ()
        self.failing: tuple[str, ...] = ()
        self.failure: E_MODEL | None = None
        self.loads: anyio.Event | None = None

    async def start(self, grants: tuple[Grant, ...] = (Grant(),)) -> ModelInfo:
        self._machine.events.append(f"load {self._name}")
        if self.loads:
            await self.loads.wait()
        if self.failure:
            raise self.failure
        self.grants = grants = tuple(one for one in grants if one.device not in self.failing)
        for grant in grants:
            self._machine.taken[grant.device.replace(":", "")][self._name] = 5 * GIB
        places = ", ".join(grant.device for grant in grants)
        return msgspec.structs.replace(self.info, device=places)

    async def unload(self) -> None:
        await anyio.lowlevel.checkpoint()
        self._machine.events.append(f"unload {self._name}")
        for taken in self._machine.taken.values():
            taken.pop(self._name, None)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[[str], str]:
    """A folder with a model of 4 GiB in bfloat16, in which only the headers are real."""

    def make(name: str) -> str:
        folder = tmp_path / name
        folder.mkdir()
        config = {"model_type": "qwen3", "hidden_size": 1024, "max_position_embeddings": 4096}
        config |= {"num_hidden_layers": 16, "num_attention_heads": 16, "vocab_size": 1000}
        (folder / "config.json").write_text(json.dumps(config))
        tensor = {"dtype": "BF16", "shape": [GIB * 2], "data_offsets": [0, 4 * GIB]}
        header = json.dumps({"weight": tensor}).encode()
        with (folder / "model.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + 4 * GIB)
        return str(folder)

    return make


def make_models(config: Config, clock: VirtualClock, machine: Machine) -> Models:
    return Models(config, clock, find_devices=machine.find_devices, make_driver=machine.make_driver)


@pytest.fixture
async def models(config: Config, clock: VirtualClock) -> AsyncIterator[Models]:
    async with aclosing(Models(config, clock)) as models:
        yield models


async def use(models: Models, name: str) -> None:
    async with models.using(name, lambda: None):
        pass


async def test_echo_is_there_at_once(models: Models) -> None:
    info = await models.load("echo")

    assert (info.name, info.driver) == ("echo", "echo")
    assert models.loaded() == ("echo",)
    assert models.list_holdings() == ()


async def test_a_name_has_one_model(models: Models, config: Config, clock: VirtualClock) -> None:
    assert models.get("echo") is models.get("echo")
    assert models.get("echo") is not Models(config, clock).get("echo")


async def test_other_names_are_local_models_that_nothing_is_loaded_for(models: Models) -> None:
    drivers = [models.get(name).driver for name in ("demo", "./weights", "org/name")]

    assert all(isinstance(driver, ReplicatedDriver) for driver in drivers)
    assert models.loaded() == ()


async def test_every_model_that_comes_along_is_described() -> None:
    assert set(DESCRIPTIONS) == {"demo", "echo"}
    assert DEMO_FOLDER.name == "demo_model"


async def test_waiters_share_one_load(
    config: Config, clock: VirtualClock, make_folder: Callable[[str], str]
) -> None:
    machine, name = Machine(cuda0=20 * GIB), make_folder("one")
    models = make_models(config, clock, machine)

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(models.load, name)

    assert machine.events == ["load one"]
    assert models.loaded() == (name,)


async def test_two_models_that_fit_stay_side_by_side_and_share_what_is_left(
    config: Config, clock: VirtualClock, make_folder: Callable[[str], str]
) -> None:
    machine = Machine(cuda0=40 * GIB)
    models = make_models(config, clock, machine)

    for name in (first := make_folder("first"), second := make_folder("second")):
        await use(models, name)

    assert models.loaded() == (first, second)
    granted = [one.granted_bytes for one in models.list_holdings()]
    assert granted[0] > granted[1] > 5 * GIB
    assert sum(granted) <= config.model_memory_share * 40 * GIB


async def test_the_idle_model_that_was_used_longest_ago_leaves_for_another(
    config: Config, clock: VirtualClock, make_folder: Callable[[str], str]
) -> None:
    machine = Machine(cuda0=32 * GIB)
    config = msgspec.structs.replace(config, model_memory_share=0.8)
    models = make_models(config, clock, machine)
    names = [make_folder(name) for name in ("old", "new", "third")]
    for name in (names[0], names[1], names[0]):
        await use(models, name)
        clock.advance(1)

    await use(models, names[2])

    assert machine.events == ["load old", "load new", "unload new", "load third"]
    assert models.loaded() == (names[0], names[2])


async def test_a_model_in_use_never_leaves_and_the_error_says_who_it_is(
    config: Config, clock: VirtualClock, make_folder: Callable[[str], str]
) -> None:
    machine = Machine(cuda0=8 * GIB)
    models = make_models(config, clock, machine)
    busy, other = make_folder("busy"), make_folder("other")

    async with models.using(busy, lambda: None):
        with pytest.raises(
            E_MODEL,
            match=r"needs 5\.\d GiB on cuda:0 .*fix: .*LLMOS_DEVICE=cpu, or"
            r" wait until .*busy is idle",
        ):
            await use(models, other)
    assert machine.events == ["load busy"]

    await use(models, other)  # it is idle now

    assert machine.events == ["load busy", "unload busy", "load other"]


async def test_a_model_that_is_larger_than_the_device_lets_nobody_leave(
    config: Config, clock: VirtualClock, make_folder: Callable[[str], str]
) -> None:
    machine = Machine(cuda0=20 * GIB, cpu=4 * GIB)
    models = make_models(config, clock, machine)
    await use(models, small := make_folder("small"))
    machine.total["cuda0"] = 5 * GIB

    with pytest.raises(E_MODEL, match=r"fix: .*, or"):
        await use(models, make_folder("large"))

    assert models.loaded() == (small,)
    assert machine.events == ["load small"]


async def test_a_model_that_left_is_loaded_again_for_the_next_request(
    config: Config, clock: VirtualClock, make_folder: Callable[[str], str]
) -> None:
    machine, told = Machine(cuda0=20 * GIB), list[str]()
    models, name = make_models(config, clock, machine), make_folder("one")
    async with running() as tasks:
        tasks.start_soon(models.run)
        async with models.using(name, lambda: told.append("loading")):
            await settle()
            clock.advance(config.model_idle_seconds * 2)
            await settle()
            assert machine.events == ["load one"]  # it is in use, however long that takes

        clock.advance(config.model_idle_seconds * 0.9)
        await settle()
        assert models.loaded() == (name,)
        clock.advance(config.model_idle_seconds * 0.5)
        await settle()
        assert models.loaded() == ()

        async with models.using(name, lambda: told.append("loading again")) as driver:
            job = GenerationJob((Message("user", "a b"),))
            assert [type(one).__name__ async for one in driver.generate(job)][-1] == "Finished"

    assert machine.events == ["load one", "unload one", "load one"]
    assert told == ["loading", "loading again"]


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(5):
        await anyio.wait_all_tasks_blocked()


async def test_no_model_leaves_where_the_setting_is_never(config: Config) -> None:
    models = Models(msgspec.structs.replace(config, model_idle_seconds=0.0), VirtualClock())

    with anyio.fail_after(5):
        await models.run()  # there is nothing to do, ever


async def test_a_load_that_fails_holds_nothing_and_may_be_tried_again(
    config: Config, clock: VirtualClock, make_folder: Callable[[str], str]
) -> None:
    machine, name = Machine(cuda0=20 * GIB), make_folder("one")
    models = make_models(config, clock, machine)
    driver = models.get(name).driver
    assert isinstance(driver, Weighty)
    driver.failure = E_MODEL("broken")

    with pytest.raises(E_MODEL, match="broken"):
        await models.load(name)
    assert (models.list_holdings(), models.loaded()) == ((), ())

    driver.failure = None
    await models.load(name)
    assert models.loaded() == (name,)


async def test_what_is_being_loaded_counts_before_it_has_taken_anything(
    config: Config, clock: VirtualClock, make_folder: Callable[[str], str]
) -> None:
    machine, slow, other = Machine(cuda0=8 * GIB), make_folder("slow"), make_folder("other")
    models = make_models(config, clock, machine)
    driver = models.get(slow).driver
    assert isinstance(driver, Weighty)
    driver.loads = anyio.Event()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(models.load, slow)
        while not machine.events:
            await anyio.lowlevel.checkpoint()
        with pytest.raises(E_MODEL, match="needs"):
            await models.load(other)
        driver.loads.set()


async def test_a_model_gets_a_replica_on_every_gpu_that_has_room(
    config: Config, clock: VirtualClock, make_folder: Callable[[str], str]
) -> None:
    machine = Machine(cuda0=20 * GIB, cuda1=2 * GIB, cuda2=20 * GIB, cpu=99 * GIB)
    models, name = make_models(config, clock, machine), make_folder("one")

    await models.load(name)

    assert [one.device for one in models.list_holdings()] == ["cuda:0", "cuda:2"]


async def test_a_gpu_where_the_replica_failed_is_free_for_others(
    config: Config, clock: VirtualClock, make_folder: Callable[[str], str]
) -> None:
    machine = Machine(cuda0=20 * GIB, cuda1=20 * GIB)
    models, name = make_models(config, clock, machine), make_folder("one")
    driver = models.get(name).driver
    assert isinstance(driver, Weighty)
    driver.failing = ("cuda:0",)

    await models.load(name)

    assert [one.device for one in models.list_holdings()] == ["cuda:1"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of org/name in a hub's cache of our own; it is not fetched yet."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "cache" / "models--org--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots").mkdir()
    return repository / "snapshots" / ("0" * 40)


def begin_fetch(target: Path) -> None:
    """What there is when a fetch is interrupted: the configuration, and no weights."""
    target.mkdir()
    (target / "config.json").write_text("{}")


def make_fetching(
    config: Config, clock: VirtualClock, machine: Machine, source: str, target: Path
) -> Models:
    """Models whose hub has one, the folder `source`."""

    async def fetch(model: str) -> None:
        machine.events.append(f"fetch {model}")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, copy_function=os.link)

    return Models(
        config,
        clock,
        find_devices=machine.find_devices,
        make_driver=machine.make_driver,
        fetch=fetch,
    )


@pytest.mark.parametrize("is_interrupted", [False, True])
async def test_a_model_that_is_not_on_this_machine_is_fetched_and_has_a_place_as_any_other(
    config: Config,
    clock: VirtualClock,
    make_folder: Callable[[str], str],
    hub: Path,
    is_interrupted: bool,
) -> None:
    machine = Machine(cpu=20 * GIB)
    models = make_fetching(config, clock, machine, make_folder("source"), hub)
    if is_interrupted:
        begin_fetch(hub)

    await models.load("org/name")

    assert machine.events == ["fetch org/name", "load name"]
    assert [(one.model, one.device) for one in models.list_holdings()] == [("org/name", "cpu")]


async def test_a_model_that_was_fetched_and_does_not_fit_is_not_loaded(
    config: Config, clock: VirtualClock, make_folder: Callable[[str], str], hub: Path
) -> None:
    machine = Machine(cpu=3 * GIB)
    models = make_fetching(config, clock, machine, make_folder("source"), hub)

    with pytest.raises(E_MODEL, match=r"org/name needs .* GiB on cpu .*; fix:"):
        await models.load("org/name")

    assert machine.events == ["fetch org/name"]


async def test_who_is_refused_hears_of_the_next_try_too(
    config: Config, clock: VirtualClock, make_folder: Callable[[str], str]
) -> None:
    models, name = make_models(config, clock, Machine(cpu=1)), make_folder("large")
    models.get(name).watching.add(Terminal())

    with pytest.raises(E_MODEL, match="needs"):
        await models.load(name)

    assert not models.get(name).watching


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("auto", ["cuda:0", "cuda:1"]),
        ("cuda", ["cuda:0", "cuda:1"]),
        ("cuda:1", ["cuda:1"]),
        ("cpu", ["cpu"]),
    ],
)
def test_a_setting_means_devices(wanted: str, chosen: list[str]) -> None:
    devices = Machine(cuda0=1, cuda1=1, cpu=1).find_devices()

    assert [device.name for device in choose_devices(wanted, devices)] == chosen


def test_without_a_gpu_auto_is_the_host_and_cuda_is_an_error() -> None:
    devices = Machine(cpu=1).find_devices()

    assert choose_devices("auto", devices) == devices
    with pytest.raises(E_MODEL, match="no device cuda; fix: LLMOS_DEVICE=auto, or one of cpu"):
        choose_devices("cuda", devices)


async def test_int8_goes_to_the_host_and_is_refused_on_a_gpu(
    config: Config, clock: VirtualClock
) -> None:
    machine = Machine(cuda0=20 * GIB, cpu=20 * GIB)
    narrow = msgspec.structs.replace(config, dtype="int8")
    on_host = msgspec.structs.replace(narrow, device="cpu")

    with pytest.raises(E_MODEL, match="not on cuda:0; fix: LLMOS_DEVICE=cpu") as caught:
        await make_models(narrow, clock, machine).load("demo")
    info = await make_models(on_host, clock, machine).load("demo")

    assert (caught.value.field, info.device) == ("dtype", "cpu")


async def test_a_paused_process_is_held_on_every_model(models: Models) -> None:
    driver = models.get("echo").driver
    words: list[str] = []

    async def generate() -> None:
        async for delta in driver.generate(GenerationJob((Message("user", "a b"),), pid=7)):
            if isinstance(delta, TextDelta):
                words.append(delta.text)

    async with anyio.create_task_group() as tasks:
        models.pause(7)
        tasks.start_soon(generate)
        await anyio.wait_all_tasks_blocked()
        assert words == []
        models.resume(7)

    assert words == ["a", " b"]


async def test_closing_lets_go_of_whoever_is_paused(models: Models) -> None:
    driver = models.get("echo").driver
    models.pause(7)

    async with running() as tasks:
        tasks.start_soon(models.aclose)
        deltas = driver.generate(GenerationJob((Message("user", "a"),), pid=7))
        with anyio.fail_after(5):
            assert [type(delta).__name__ async for delta in deltas] == ["TextDelta", "Finished"]
