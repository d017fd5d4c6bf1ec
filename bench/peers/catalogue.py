"""The engines of the comparison: which script drives each, and in which environment it runs.

Ours and transformers' `generate` run in the environment of the checkout; a peer in one of its own
under the user's cache folder, named by the digest of its pins: other pins, another environment.
"""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import platformdirs

HERE = Path(__file__).resolve().parent
CACHE = platformdirs.user_cache_path("llmos") / "bench"


@dataclass(frozen=True)
class Engine:
    """A row of the comparison; without `pins` it runs where we run.

    `pip_environment` are variables for the installation, as pairs.
    """

    name: str
    title: str
    module: str
    pins: str | None = None
    pip_environment: tuple[tuple[str, str], ...] = ()

    @property
    def folder(self) -> Path:
        """The environment's folder. It is whole once `marker` is in it."""
        if self.pins is None:
            return Path(sys.prefix)
        pins = (HERE / self.pins).read_bytes() + repr(self.pip_environment).encode()
        return CACHE / "peers" / f"{self.name}-{hashlib.blake2b(pins, digest_size=6).hexdigest()}"

    @property
    def marker(self) -> Path:
        """The file that the installation writes last."""
        return self.folder / "installed"

    @property
    def is_installed(self) -> bool:
        """Whether its script can run."""
        return self.pins is None or self.marker.exists()

    @property
    def python(self) -> Path:
        """The interpreter of its environment."""
        return Path(sys.executable) if self.pins is None else self.folder / "bin" / "python"

    @property
    def fix(self) -> str:
        """The command that installs it."""
        return f".venv/bin/python -m bench.peers.install {self.name}"


OURS = Engine("llmos", "llmos", "bench.peers.llmos_engine")
GENERATE = Engine("generate", "transformers generate", "bench.peers.generate_engine")
LLAMA_CPP = Engine(
    "llama_cpp",
    "llama.cpp",
    "bench.peers.llama_cpp_engine",
    "llama_cpp.txt",
    (("CMAKE_ARGS", "-DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON"),),
)
DBOS = Engine("dbos", "DBOS Transact", "bench.peers.dbos_steps", "dbos.txt")
OPENVINO = Engine("openvino", "OpenVINO GenAI", "bench.peers.openvino_engine", "openvino.txt")
ENGINES = (OURS, LLAMA_CPP, OPENVINO, GENERATE)
"""The rows, in the order in which they run. The first is ours, the others are its peers."""
PEERS = (*(engine for engine in ENGINES if engine.pins), DBOS)
"""All that can be installed."""
