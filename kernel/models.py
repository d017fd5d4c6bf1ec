"""Models by name: which there are, and the one driver that runs each of them.

`demo` is the demonstration model that comes with llmos, `echo` repeats what it hears; every other
name is a folder or a hub id that transformers can load.
"""

from pathlib import Path

import anyio

import llmos

from .config import Config
from .drivers.driver import Driver, ModelInfo, Wait
from .drivers.echo import EchoDriver
from .drivers.local import LocalDriver
from .terminal import Terminal

DEMO_FOLDER = Path(llmos.__file__).parent / "demo_model"
DESCRIPTIONS = {
    "demo": "the small demonstration model that comes with llmos",
    "echo": "repeats the last message; needs no weights",
}


class Model:
    """One model: its driver, and what it turned out to be once it is loaded."""

    def __init__(self, driver: Driver, info: ModelInfo | None = None) -> None:
        self.driver = driver
        self.info = info
        self.watching: set[Terminal] = set()  # those who know that it loads; the handlers' to add
        self._loading = anyio.Lock()

    async def load(self) -> ModelInfo:
        """Load it if it is not. Several may wait at once. Raises E_MODEL."""
        try:
            async with self._loading:
                if self.info is None:
                    self.info = await self.driver.start()
                return self.info
        finally:
            self.watching.clear()


class Models:
    """The models that are in use."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._by_name: dict[str, Model] = {}

    def get(self, name: str) -> Model:
        """The model of this name; it may not be loaded yet."""
        if name not in self._by_name:
            self._by_name[name] = self._make(name)
        return self._by_name[name]

    def _make(self, name: str) -> Model:
        if name == "echo":
            echo = EchoDriver()
            return Model(echo, echo.info)
        path = str(DEMO_FOLDER) if name == "demo" else name
        log, pages = self._config.logs / "executor.log", self._config.pages
        return Model(LocalDriver(path, log=log, page_folder=pages))

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
