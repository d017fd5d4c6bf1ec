"""Models by name: one driver each, loaded once whoever asks."""

from pathlib import Path

import anyio
import pytest

from llmos.kernel.config import Config
from llmos.kernel.drivers.driver import GenerationJob, TextDelta
from llmos.kernel.drivers.echo import EchoDriver
from llmos.kernel.drivers.local import LocalDriver
from llmos.kernel.models import DEMO_FOLDER, DESCRIPTIONS, Model, Models
from llmos.syscalls.tasks import running
from llmos.syscalls.types import Message

pytestmark = pytest.mark.anyio


async def test_echo_is_there_at_once(config: Config) -> None:
    models = Models(config)

    info = await models.get("echo").load()

    assert (info.name, info.driver) == ("echo", "echo")
    assert models.loaded() == ("echo",)


async def test_a_name_has_one_model(config: Config) -> None:
    models = Models(config)

    assert models.get("echo") is models.get("echo")
    assert models.get("echo") is not Models(config).get("echo")


async def test_other_names_are_local_models_that_nothing_is_loaded_for(config: Config) -> None:
    models = Models(config)

    drivers = [models.get(name).driver for name in ("demo", "./weights", "org/name")]

    assert all(isinstance(driver, LocalDriver) for driver in drivers)
    assert models.loaded() == ()
    await models.aclose()


async def test_every_model_that_comes_along_is_described() -> None:
    assert set(DESCRIPTIONS) == {"demo", "echo"}
    assert DEMO_FOLDER.name == "demo_model"


async def test_waiters_share_one_load() -> None:
    driver = EchoDriver()
    model = Model(driver)
    infos = []

    async def load() -> None:
        infos.append(await model.load())

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(load)

    assert model.info is driver.info
    assert infos == [driver.info] * 3


async def test_a_paused_process_is_held_on_every_model(config: Config, tmp_path: Path) -> None:
    models = Models(config)
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


async def test_closing_lets_go_of_whoever_is_paused(config: Config) -> None:
    models = Models(config)
    driver = models.get("echo").driver
    models.pause(7)

    async with running() as tasks:
        tasks.start_soon(models.aclose)
        deltas = driver.generate(GenerationJob((Message("user", "a"),), pid=7))
        with anyio.fail_after(5):
            assert [type(delta).__name__ async for delta in deltas] == ["TextDelta", "Finished"]
