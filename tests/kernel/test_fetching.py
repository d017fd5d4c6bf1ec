"""Models are fetched from a hub, here one on this machine, by a process that may be given up."""

import json
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anyio
import pytest

from llmos.kernel.fetching import fetch_model
from llmos.kernel.modelfiles import find_folder
from llmos.syscalls.errors import E_MODEL

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
COMMIT = "0" * 40
HEADER = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
FILES = {
    "config.json": b"{}",
    "model.safetensors": struct.pack("<Q", len(HEADER)) + HEADER + bytes(8),
    "weights.bin": b"a pickle",
}


class Hub(ThreadingHTTPServer):
    """Answers what a client asks to fetch the files of org/name; `is_slow` never."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = FILES
        self.is_slow = False
        self.has_been_asked = threading.Event()


class Answer(BaseHTTPRequestHandler):
    """One request."""

    server: Hub

    def do_HEAD(self) -> None:
        self.answer(has_body=False)

    def do_GET(self) -> None:
        self.answer(has_body=True)

    def answer(self, *, has_body: bool) -> None:
        self.server.has_been_asked.set()
        if self.server.is_slow:
            threading.Event().wait()
        name, files = self.path.rpartition("/")[2], self.server.files
        if self.path.startswith("/api/models/org/name/tree/"):
            tree = [{"type": "file", "path": one, "size": 9, "oid": one} for one in files]
            body = json.dumps(tree).encode()
        elif self.path.startswith("/api/models/org/name"):
            body = json.dumps({"id": "org/name", "sha": COMMIT}).encode()
        elif "/org/name/resolve/" in self.path and name in files:
            body = files[name]
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{name}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if has_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever)
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.server_port}")
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield hub
        hub.shutdown()
        thread.join()


async def test_what_a_model_needs_is_brought_and_no_pickle(hub: Hub, tmp_path: Path) -> None:
    await fetch_model("org/name", tmp_path / "log")

    folder = find_folder("org/name", cache=tmp_path / "cache")
    assert folder is not None
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}


async def test_what_is_no_model_is_said_in_a_line(hub: Hub, tmp_path: Path) -> None:
    hub.files = {name: FILES[name] for name in ("config.json", "weights.bin")}

    with pytest.raises(E_MODEL, match="has no weights; fix: ") as refused:
        await fetch_model("org/name", tmp_path / "log")

    assert "\n" not in refused.value.message


async def test_a_model_that_the_hub_does_not_have_is_an_error(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(E_MODEL, match=r"cannot reach the model hub for org/other: .*; fix: "):
        await fetch_model("org/other", tmp_path / "log")


async def test_a_fetch_can_be_given_up(hub: Hub, tmp_path: Path) -> None:
    hub.is_slow = True

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fetch_model, "org/name", tmp_path / "log")
        await anyio.to_thread.run_sync(hub.has_been_asked.wait, 60)
        tasks.cancel_scope.cancel()

    assert find_folder("org/name", cache=tmp_path / "cache") is None
