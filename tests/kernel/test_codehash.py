"""The code hash: it follows the source and nothing else, and says when a process has other code."""

import os
from pathlib import Path

import pytest

from llmos.kernel import codehash
from llmos.kernel.applog import AppLog
from llmos.kernel.codehash import hash_code, identify_code
from llmos.kernel.machine import Machine
from llmos.kernel.manifest import list_apps
from llmos.kernel.protocol import Logged
from llmos.kernel.terminal import Terminal

from .conftest import Attach, MakeApp, make_process, read_rows

pytestmark = pytest.mark.anyio


@pytest.fixture
def folder(make_app: MakeApp, tmp_path: Path) -> Path:
    folder = tmp_path / make_app("worker", "return 1")
    (folder / "parts").mkdir()
    (folder / "parts" / "more.py").write_text("X = 1\n")
    return folder


@pytest.mark.parametrize("name", ["code.py", "app.toml", "parts/more.py"])
def test_changed_source_is_other_code(folder: Path, name: str) -> None:
    before = hash_code(folder)

    with (folder / name).open("a") as file:
        file.write("# more\n")

    assert hash_code(folder) != before


def test_new_gone_and_renamed_source_is_other_code(folder: Path) -> None:
    seen = {hash_code(folder)}

    (folder / "new.py").write_text("")
    seen.add(hash_code(folder))
    (folder / "new.py").rename(folder / "newer.py")
    seen.add(hash_code(folder))
    (folder / "parts" / "more.py").unlink()
    seen.add(hash_code(folder))

    assert len(seen) == 4


def test_what_is_no_source_does_not_count(folder: Path) -> None:
    before = hash_code(folder)

    for name in ("notes.txt", ".hidden.py", "__pycache__/code.py", ".git/hook.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("something")
    os.mkfifo(folder / "pipe.py")
    (folder / "loop").symlink_to(folder)
    os.utime(folder / "code.py", (1, 1))

    assert hash_code(folder) == before


def test_the_same_source_in_another_place_is_the_same_code(folder: Path) -> None:
    before = hash_code(folder)

    moved = folder.rename(folder.with_name("moved"))

    assert hash_code(moved) == before


def test_more_than_is_read_still_counts_by_its_size(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codehash, "MAX_CODE_BYTES", 10)
    before = hash_code(folder)

    (folder / "parts" / "more.py").write_text("X = 10\n")

    assert hash_code(folder) != before


def test_a_folder_that_is_gone_has_a_hash_too(tmp_path: Path) -> None:
    assert hash_code(tmp_path / "nowhere") == hash_code(tmp_path)


def test_every_packaged_app_has_a_hash_of_its_own() -> None:
    apps = list_apps()

    assert len({hash_code(app.folder) for app in apps}) == len(apps)


async def test_a_process_that_goes_on_with_other_code_has_that_in_its_log(
    machine: Machine, attach: Attach, tmp_path: Path
) -> None:
    process = await make_process(machine, tmp_path)
    terminal = Terminal()
    log = AppLog(process.pid, tmp_path / "app.log", terminal)
    await identify_code(process, log)
    system, _ = await attach(again=process)
    await system.now()
    process.journaled = {("0", 0): (await read_rows(machine, process))[0]}
    await identify_code(process, log)
    assert not log.path.exists()

    (tmp_path / "code.py").write_text("changed = True\n")
    await identify_code(process, log)

    line = "llmos: the app's code changed since this process started\n"
    assert log.path.read_text() == line
    assert await terminal.next_event() == Logged(process.pid, line)
    assert log.last_words() == ""
