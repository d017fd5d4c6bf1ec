"""`llmos app new`: the files of a new app, which runs as it is."""

import keyword
import re
from pathlib import Path

from llmos.syscalls.errors import E_ARG

MAX_NAME_CHARS = 64
_NAME = re.compile(r"[a-z][a-z0-9_]*")

MANIFEST = """\
[app]
name = "{name}"
version = "0.1.0"
description = "Answers one question"
main = "{name}:main"

[capabilities]
generate = {{ models = ["*"], max_tokens = 20_000 }}
"""

MODULE = '''\
"""{name}: answers one question."""

from llmos import System, app


@app
async def main(sys: System, *question: str) -> None:
    """Answer QUESTION; without words, ask for it."""
    text = " ".join(question) or await sys.ask("question> ")
    if not text:
        return
    context = await sys.context(system="You are a helpful assistant.")
    await context.respond(text, show=True)
    await sys.print()
'''

TEST = '''\
"""{name}, run on the echo model: it needs no weights and answers with the question."""

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def test_it_answers(tmp_path: Path) -> None:
    llmos = [sys.executable, "-m", "llmos.bin.cli"]
    command = [*llmos, "run", "--model", "echo", str(FOLDER), "hello"]
    environ = os.environ | {{"LLMOS_HOME": str(tmp_path)}}

    ran = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)

    assert (ran.returncode, ran.stdout) == (0, "hello\\n"), ran.stderr
'''

README = """\
# {name}

An app for llmos. Run it with `llmos run ./{name} "a question"`, on a model without weights with
`llmos run --model echo ./{name} hello`; test it with `pytest {name}`.

`{name}.py` is the app: one async function of the system. `app.toml` says what it is called, where
its main is, and what it may do: a syscall that needs a capability which is not there is refused.
"""

FILES = {
    "app.toml": MANIFEST,
    "{name}.py": MODULE,
    "test_{name}.py": TEST,
    "README.md": README,
}


def make_app(name: str, parent: Path) -> Path:
    """Write a new app's folder below `parent`; returns it. E_ARG for a bad name or place."""
    module = name.replace("-", "_")
    if not _NAME.fullmatch(module) or len(name) > MAX_NAME_CHARS or keyword.iskeyword(module):
        raise E_ARG(
            f"{name!r} is no name for an app; fix: use lower-case letters, digits and _, "
            f"a letter first, at most {MAX_NAME_CHARS}"
        )
    folder = parent / module
    if not parent.is_dir():
        raise E_ARG(f"there is no folder {parent}; fix: mkdir -p {parent}")
    if folder.exists():
        raise E_ARG(f"{folder} is there already; fix: choose another name")
    folder.mkdir()
    for path, text in FILES.items():
        (folder / path.format(name=module)).write_text(text.format(name=module))
    return folder
