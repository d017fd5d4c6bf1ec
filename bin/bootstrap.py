"""Makes .venv/ in a checkout from constraints.txt, then starts the program that asked for it.

Runs on any Python 3.11 or newer with nothing installed. What it keeps true:

* `.venv/made-from/` holds what the environment was made from: constraints.txt, pyproject.toml and
  the checkout's path. environment.sh compares them, so that a later start needs no Python for it.
* `.venv/in-progress` exists from before the first change until after the last one. Whoever finds it
  and holds the lock knows that a set-up was cut off, and begins anew.
* The lock on the checkout's folder is held by this process and by every program that it starts, so
  that two set-ups never overlap, not even when the first one is killed and its pip lives on.
* Where there is no NVIDIA GPU no CUDA package is installed: torch is asked for as `+cpu`, from what
  pip's own environment names, else from PyTorch's index of CPU builds.
"""

import contextlib
import fcntl
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

INPUTS = ("constraints.txt", "pyproject.toml")
CODE = ("kernel", "syscalls", "memory", "apps", "bin", "src")
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PIP_OPTIONS = ("--no-compile", "--disable-pip-version-check", "--retries", "2")
# Half of all modules never run here; the others are compiled, which saves seconds at a start.
NEVER_RUN = (
    r"site-packages/(transformers/models/(?!auto/|qwen3/|llama/|gemma|__init__)"
    r"|torch/testing/|.*/tests?/)"
)
NO_INDEX = re.compile(r"NewConnectionError|ConnectTimeout|NameResolution|ProxyError|SSLError")
EXIT_STATE, EXIT_INTERRUPTED, EXIT_TERMINATED = 3, 130, 143


class SetupError(Exception):
    """The environment cannot be made; the message says what and why, `fix` what to do.

    `is_whole`: what is there so far can be used by the next set-up.
    """

    def __init__(self, message: str, fix: str, *, is_whole: bool = False) -> None:
        super().__init__(message)
        self.fix = fix
        self.is_whole = is_whole


@dataclass(frozen=True)
class Checkout:
    """A checkout and the places of its environment."""

    root: Path

    @property
    def venv(self) -> Path:
        """The environment's folder."""
        return self.root / ".venv"

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.venv / "bin" / "python"

    @property
    def made_from(self) -> Path:
        """Copies of what the environment was made from."""
        return self.venv / "made-from"

    @property
    def in_progress(self) -> Path:
        """Exists while the environment is being changed."""
        return self.venv / "in-progress"

    @property
    def log(self) -> Path:
        """What pip and the others printed."""
        return self.venv / "setup.log"

    def is_fresh(self) -> bool:
        """Whether a program may start in the environment as it is: what environment.sh checks."""
        return self.is_usable() and self._made_here() and all(map(self._is_unchanged, INPUTS))

    def is_usable(self) -> bool:
        """Whether there is an environment that no set-up was cut off in."""
        return os.access(self.python, os.X_OK) and not self.in_progress.exists()

    def needs_packages(self) -> bool:
        """Whether more changed than the settings of linters and tests."""
        if not (self._made_here() and self._is_unchanged("constraints.txt")):
            return True
        return _packaging(self.root / "pyproject.toml") != _packaging(
            self.made_from / "pyproject.toml"
        )

    def record(self) -> None:
        """Write down what the environment was made from."""
        self.made_from.mkdir(exist_ok=True)
        for name in INPUTS:
            shutil.copyfile(self.root / name, self.made_from / name)
        (self.made_from / "checkout").write_text(f"{self.root}\n")

    def _made_here(self) -> bool:
        place = self.made_from / "checkout"
        return place.is_file() and place.read_text() == f"{self.root}\n"

    def _is_unchanged(self, name: str) -> bool:
        copy = self.made_from / name
        return copy.is_file() and copy.read_bytes() == (self.root / name).read_bytes()


def _packaging(pyproject: Path) -> object:
    """The tables of a pyproject.toml that an installation depends on."""
    tables = tomllib.loads(pyproject.read_text())
    return [tables["build-system"], tables["project"], tables["tool"]["hatch"]]


class Progress:
    """One line per stage; in a terminal the running stage's line is kept up to date."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.live = stream.isatty()
        self.started = time.monotonic()

    def say(self, text: str) -> None:
        """Print a line of its own."""
        self._write(f"llmos: {text}\n")

    def show(self, label: str, seconds: float, detail: str) -> None:
        """Say in a terminal how far the running stage is."""
        if self.live:
            columns = shutil.get_terminal_size().columns
            self._write(f"  {label:<26}{seconds:>6.0f} s  {detail}"[: columns - 1])

    def end(self, label: str, seconds: float) -> None:
        """Say how long a stage took."""
        self._write(f"  {label:<26}{seconds:>6.1f} s\n")

    def _write(self, text: str) -> None:
        self.stream.write(("\r\033[K" if self.live else "") + text)
        self.stream.flush()


@dataclass
class Setup:
    """One set-up of a checkout's environment; the caller holds the lock `lock`."""

    checkout: Checkout
    lock: int
    progress: Progress

    def run(self) -> None:
        """Make the environment, or bring the one that is there up to date."""
        checkout, progress = self.checkout, self.progress
        if checkout.is_usable() and not checkout.needs_packages():
            checkout.record()
            return
        if checkout.is_usable():
            progress.say(f"bringing {checkout.venv} up to date")
        else:
            progress.say(f"setting up {checkout.venv} (once; about a minute)")
            self._clear()
        checkout.in_progress.touch()
        if not checkout.python.exists():
            self._make_venv()
        try:
            self._install()
        except SetupError as failure:
            if failure.is_whole:
                checkout.in_progress.unlink()
            raise
        checkout.record()
        checkout.in_progress.unlink()
        progress.say(f"ready after {time.monotonic() - progress.started:.0f} s")

    def _clear(self) -> None:
        """Remove all of an environment but the mark that says that it is not whole."""
        self.checkout.venv.mkdir(exist_ok=True)
        self.checkout.in_progress.touch()
        for entry in self.checkout.venv.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry != self.checkout.in_progress:
                entry.unlink()

    def _install(self) -> None:
        checkout = self.checkout
        self._install_torch()
        pins = ["-c", str(checkout.root / "constraints.txt")]
        us = f"{checkout.root}[local,dev]"
        self._pip("build backend", [*pins, "hatchling"])
        self._pip("packages", [*pins, "--no-build-isolation", "-e", us])
        places = [checkout.venv / "lib", *(checkout.root / name for name in CODE)]
        compiler = ["-m", "compileall", "-q", "-j", "0", "-x", NEVER_RUN, *map(str, places)]
        self._stage("compiled modules", [str(checkout.python), *compiler])

    def _make_venv(self) -> None:
        if importlib.util.find_spec("ensurepip") is None:
            raise SetupError(
                f"{sys.executable} cannot make virtual environments: it has no ensurepip",
                "apt-get install python3-venv",
            )
        # The versioned interpreter: after an upgrade of Python the link breaks, which is noticed.
        base = os.path.realpath(sys.executable)
        self._check("virtual environment", [base, "-I", "-m", "venv", str(self.checkout.venv)])

    def _install_torch(self) -> None:
        pin = pinned_version(self.checkout.root / "constraints.txt", "torch")
        has_gpu = has_nvidia_gpu()
        label = "torch, CUDA build" if has_gpu else "torch, CPU build"
        first, *others = torch_sources(pin, has_gpu, sys.platform)
        output = self._try_pip(label, ["--no-deps", *first])
        for source in others:
            output = output and self._try_pip(label, ["--no-deps", *source])
        if output:
            raise self._pip_error(label, output)
        cuda = [] if has_gpu else cuda_packages(self.checkout.venv)
        if cuda:
            raise SetupError(
                f"{self.checkout.venv} holds CUDA packages and there is no NVIDIA GPU: {cuda[0]}",
                f"rm -r '{self.checkout.venv}', then start again",
            )

    def _pip(self, label: str, arguments: list[str]) -> None:
        output = self._try_pip(label, arguments)
        if output:
            raise self._pip_error(label, output)

    def _try_pip(self, label: str, arguments: list[str]) -> str:
        """Run `pip install`; returns its output if it fails, and nothing if it does not."""
        command = [str(self.checkout.python), "-I", "-m", "pip", "install", *PIP_OPTIONS]
        begin = self.checkout.log.stat().st_size if self.checkout.log.exists() else 0
        if self._stage(label, [*command, *arguments]) == 0:
            return ""
        output = self.checkout.log.read_bytes()[begin:].decode(errors="replace")
        return output or f"ERROR: {command[0]} was ended"

    def _pip_error(self, label: str, output: str) -> SetupError:
        return SetupError(
            f"cannot install {label}: {failure_reason(output)}",
            "check the network, or name a mirror in PIP_INDEX_URL or a folder in PIP_FIND_LINKS; "
            f"pip's output is in {self.checkout.log}",
            is_whole="Installing collected packages" not in output,
        )

    def _check(self, label: str, command: list[str]) -> None:
        if self._stage(label, command) != 0:
            raise SetupError(f"{label}: {last_line(self.checkout.log)}", f"see {self.checkout.log}")

    def _stage(self, label: str, command: list[str]) -> int:
        """Run a program to its end with its output in the log; returns its exit status."""
        started = time.monotonic()
        with self.checkout.log.open("ab") as log:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(self.lock,),
            )
            try:
                while not _has_ended(child):
                    seconds = time.monotonic() - started
                    self.progress.show(label, seconds, last_line(self.checkout.log))
            finally:
                if child.poll() is None:
                    child.terminate()
                    child.wait()
        if child.returncode == 0:
            self.progress.end(label, time.monotonic() - started)
        return child.returncode


def _has_ended(child: subprocess.Popen[bytes]) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(timeout=0.2)
    return child.returncode is not None


def last_line(log: Path) -> str:
    """The last line in a log that is not empty."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 4096))
        lines = stream.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def failure_reason(output: str) -> str:
    """Why pip failed, in one line, from what it printed."""
    if "No space left on device" in output:
        return "the disk is full"
    if NO_INDEX.search(output):
        return "no package index answers"
    error = re.search(r"^ERROR: (.+?)( \(from versions:.*)?$", output, re.MULTILINE)
    return error[1] if error else "pip ended with no error line"


def pinned_version(constraints: Path, name: str) -> str:
    """The version of a distribution in constraints.txt."""
    found = re.search(rf"^{name}==(\S+)", constraints.read_text(), re.MULTILINE)
    if found is None:
        raise SetupError(f"{constraints} does not pin {name}", "git checkout constraints.txt")
    return found[1]


def has_nvidia_gpu() -> bool:
    """Whether the NVIDIA driver lists a GPU."""
    try:
        answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and b"GPU " in answer.stdout


def torch_sources(version: str, has_gpu: bool, platform: str) -> list[list[str]]:
    """What to ask pip for, in order. `+cpu` can never match a CUDA build; macOS has one build."""
    if has_gpu or platform == "darwin":
        return [[f"torch=={version}"]]
    cpu = f"torch=={version}+cpu"
    return [[cpu], [cpu, "--index-url", TORCH_CPU_INDEX]]


def cuda_packages(venv: Path) -> list[str]:
    """Distributions of an environment that are of use on an NVIDIA GPU alone, but the one small
    module that finds out whether there is any."""
    installed = (path.name for path in venv.glob("lib/python*/site-packages/*.dist-info"))
    return sorted(name for name in installed if re.match(r"nvidia[-_](?!ml[-_]py-)|triton-", name))


@contextlib.contextmanager
def exclusive(root: Path, progress: Progress) -> Iterator[int]:
    """Hold the lock on a checkout; waits for whoever holds it, and says so."""
    lock = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say("another start is setting up .venv/; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def prepare(checkout: Checkout, progress: Progress) -> int:
    """Make sure that the environment is fresh; returns 0 or an exit code, after saying why."""
    try:
        with exclusive(checkout.root, progress) as lock:
            if not checkout.is_fresh():
                Setup(checkout, lock, progress).run()
    except KeyboardInterrupt:
        progress.say("set-up interrupted; the next start begins it anew")
        return EXIT_INTERRUPTED
    except SetupError as failure:
        progress.say(f"{failure}\nfix: {failure.fix}")
        return EXIT_STATE
    except OSError as failure:
        progress.say(f"cannot set up {checkout.venv}: {failure}\nfix: free or permit that place")
        return EXIT_STATE
    return 0


def main(program: str, arguments: list[str]) -> None:
    """Prepare the environment of this checkout, then become the program."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_TERMINATED))
    code = prepare(Checkout(Path(__file__).resolve().parents[1]), Progress(sys.stderr))
    if code:
        sys.exit(code)
    os.execv("/bin/sh", ["sh", program, *arguments])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
