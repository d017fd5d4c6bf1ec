"""Runs every gate of a checkout: style, types, import contracts, then the test suite.

All gates run, whatever the others say; the exit code is 0 when all are green, else the tests' own
if they are red, else 1. The static gates run beside each other, the tests alone: they measure time.
"""

import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CODE = ("bin", "apps", "kernel", "memory", "syscalls")
TOOLS = Path(sys.executable).parent


@dataclass(frozen=True)
class Gate:
    """A program whose exit status is a verdict; `inspect` may object to what it printed."""

    name: str
    command: list[str]
    inspect: Callable[[str], str] = lambda output: ""


@dataclass(frozen=True)
class Verdict:
    """How a gate ended."""

    name: str
    ok: bool
    seconds: float
    output: str

    def __str__(self) -> str:
        return f"{'ok ' if self.ok else 'RED'}  {self.name:<18}{self.seconds:>7.1f} s"


def count_sources(root: Path) -> int:
    """How many modules mypy has to see: every .py file under the folders that it is given."""
    settings = tomllib.loads((root / "pyproject.toml").read_text())
    folders = settings["tool"]["mypy"]["files"]
    return sum(1 for folder in folders for path in _walk(root / folder) if path.suffix == ".py")


def compare_tests_with_code(root: Path) -> str:
    """How many lines of tests there are for the code: reported, not judged."""
    num_code = sum(_num_lines(root / name) for name in CODE)
    num_tests = _num_lines(root / "tests")
    ratio = num_tests / num_code
    return f"{num_tests} lines of tests for {num_code} lines of code: {ratio:.2f}"


def _num_lines(folder: Path) -> int:
    return sum(len(path.read_bytes().splitlines()) for path in folder.rglob("*.py"))


def _walk(folder: Path) -> list[Path]:
    """Files under a folder, through links to folders, which rglob does not follow."""
    found: list[Path] = []
    for entry in folder.iterdir():
        found += _walk(entry) if entry.is_dir() else [entry]
    return found


def every_source_was_checked(output: str) -> str:
    """mypy passes over what it cannot find, so its own count is compared with the files."""
    seen = re.search(r"in (\d+) source files?|checked (\d+) source files?", output)
    num_seen = int(seen[1] or seen[2]) if seen else 0
    num_sources = count_sources(ROOT)
    return "" if num_seen == num_sources else f"saw {num_seen} of {num_sources} source files\n"


def run_gate(gate: Gate) -> Verdict:
    """Run a gate to its end and keep its output."""
    started = time.monotonic()
    ended = subprocess.run(gate.command, cwd=ROOT, capture_output=True, text=True, check=False)
    output = ended.stdout + ended.stderr
    objection = gate.inspect(output)
    ok = ended.returncode == 0 and not objection
    return Verdict(gate.name, ok, time.monotonic() - started, output + objection)


def run_tests(arguments: list[str]) -> tuple[Verdict, int]:
    """Run pytest with its output on the terminal, for its own summary to be seen as it is."""
    started = time.monotonic()
    command = [sys.executable, "-m", "pytest", *arguments]
    code = subprocess.run(command, cwd=ROOT, check=False).returncode
    return Verdict("pytest", code == 0, time.monotonic() - started, ""), code


def static_gates() -> list[Gate]:
    """The gates that run nothing of ours."""
    python = sys.executable
    return [
        Gate("ruff check", [python, "-m", "ruff", "check"]),
        Gate("ruff format", [python, "-m", "ruff", "format", "--check"]),
        Gate("mypy", [python, "-m", "mypy"], every_source_was_checked),
        Gate("import contracts", [python, str(TOOLS / "lint-imports")]),
    ]


def main(arguments: list[str]) -> int:
    """Run all gates; `arguments` are pytest's."""
    started = time.monotonic()
    with ThreadPoolExecutor() as pool:
        verdicts = list(pool.map(run_gate, static_gates()))
    for verdict in verdicts:
        if not verdict.ok:
            print(f"\n--- {verdict.name}\n{verdict.output}")
    print(*verdicts, compare_tests_with_code(ROOT), sep="\n", flush=True)
    tests, code = run_tests(arguments)
    verdicts.append(tests)
    red = [verdict.name for verdict in verdicts if not verdict.ok]
    seconds = time.monotonic() - started
    print(f"bin/test: {'RED: ' + ', '.join(red) if red else 'all green'} ({seconds:.0f} s)")
    return code or bool(red)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
