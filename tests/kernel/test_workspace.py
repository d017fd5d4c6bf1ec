"""The workspace: nothing outside of it is reached, and every failure has a type."""

import contextlib
import errno
import os
import socket
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.kernel.workspace import MAX_NAMES, Workspace, show_path, typed_errors
from llmos.syscalls.errors import E_ARG, E_PERM, E_STORAGE, SyscallError

HOSTILE_NAMES = ["a\nb.txt", "\u202egnp.exe", "-rf", " ", "*", "a'b\"c", "\x1b[31m", "é", "..."]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "notes.txt").write_text("hello")
    (tmp_path / "secret.txt").write_text("secret")
    return folder


@pytest.fixture
def workspace(root: Path) -> Workspace:
    return Workspace(root)


@pytest.mark.parametrize("path", ["notes.txt", "./notes.txt", "x/../notes.txt", ".//notes.txt"])
def test_a_file_is_read_by_any_spelling_that_stays_inside(workspace: Workspace, path: str) -> None:
    assert workspace.read_text(path, 0, 100) == ("hello", False)


def test_an_absolute_path_below_the_root_is_relative_to_it(workspace: Workspace) -> None:
    path = str(workspace.root / "notes.txt")

    assert workspace.relative(path) == ("notes.txt",)
    assert workspace.read_text(path, 0, 100) == ("hello", False)


@pytest.mark.parametrize(
    "path", ["..", "../secret.txt", "a/../../secret.txt", "/etc/passwd", "/", "../work2/x"]
)
def test_a_path_that_leads_outside_is_denied(workspace: Workspace, path: str) -> None:
    for use in (
        lambda: workspace.read_text(path, 0, 1),
        lambda: workspace.write_text(path, "x"),
        lambda: workspace.list_names(path),
    ):
        with pytest.raises(E_PERM, match="outside of the workspace") as caught:
            use()
        assert caught.value.field == "path"


def test_a_link_to_a_file_is_not_followed(workspace: Workspace, root: Path) -> None:
    (root / "link").symlink_to(root.parent / "secret.txt")

    with pytest.raises(E_ARG, match="links are not followed"):
        workspace.read_text("link", 0, 100)
    with pytest.raises(E_ARG, match="links are not followed"):
        workspace.write_text("link", "changed")
    assert (root.parent / "secret.txt").read_text() == "secret"


def test_a_link_to_a_folder_is_not_followed(workspace: Workspace, root: Path) -> None:
    (root / "up").symlink_to(root.parent, target_is_directory=True)

    with pytest.raises(E_ARG, match="behind a link"):
        workspace.read_text("up/secret.txt", 0, 100)
    with pytest.raises(E_ARG, match="behind a link"):
        workspace.list_names("up")
    with pytest.raises(E_ARG, match="behind a link"):
        workspace.write_text("up/new.txt", "x")
    assert workspace.list_names() == ("notes.txt", "up")


def test_a_folder_swapped_for_a_link_meanwhile_gains_nothing(root: Path) -> None:
    inside, outside = root / "d", root.parent / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "f").write_text("secret")
    (inside / "f").write_text("public")
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            inside.rename(root / "kept")
            inside.symlink_to(outside)
            inside.unlink()
            (root / "kept").rename(inside)

    swapper = threading.Thread(target=swap)
    swapper.start()
    seen = set()
    for _ in range(500):
        try:
            seen.add(Workspace(root).read_text("d/f", 0, 100)[0])
        except E_ARG:
            seen.add("refused")
    done.set()
    swapper.join()

    assert "secret" not in seen


def test_a_fifo_is_refused_without_waiting(workspace: Workspace, root: Path) -> None:
    os.mkfifo(root / "pipe")

    with pytest.raises(E_ARG, match="not a regular file"):
        workspace.read_text("pipe", 0, 100)
    with pytest.raises(E_ARG, match="not a regular file"):
        workspace.write_text("pipe", "x")


def test_a_socket_is_refused(
    workspace: Workspace, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)  # a socket's path has to be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s")

    with pytest.raises(E_ARG, match="not a regular file"):
        workspace.read_text("s", 0, 100)


def test_a_device_is_refused() -> None:
    with pytest.raises(E_ARG, match="not a regular file"):
        Workspace(Path("/dev")).read_text("zero", 0, 100)


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("nothing.txt", "no such file: 'nothing.txt'"),
        ("no/such", "no such file"),
        (".", "a folder, not a file"),
        ("folder", "a folder, not a file"),
        ("notes.txt/x", "not a folder"),
        ("x" * 300, "name too long"),
        ("a\0b", "not a path"),
        ("", "not a path"),
        ("\ud800", "not UTF-8"),
    ],
)
def test_what_cannot_be_read_is_an_argument_error(
    workspace: Workspace, root: Path, path: str, problem: str
) -> None:
    (root / "folder").mkdir()

    with pytest.raises(E_ARG, match=problem) as caught:
        workspace.read_text(path, 0, 100)

    assert caught.value.field == "path"


def test_bytes_that_are_not_text_are_an_argument_error(workspace: Workspace, root: Path) -> None:
    (root / "image").write_bytes(b"\x89PNG\xff")

    with pytest.raises(E_ARG, match="not UTF-8 text: 'image'"):
        workspace.read_text("image", 0, 100)


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_hostile_name_is_a_name(workspace: Workspace, name: str) -> None:
    workspace.write_text(name, "x")

    assert workspace.read_text(name, 0, 10) == ("x", False)
    assert name in workspace.list_names()


def test_a_message_shows_a_hostile_name_on_one_line(workspace: Workspace) -> None:
    with pytest.raises(E_ARG) as caught:
        workspace.read_text("a\nb\u202e\x1b", 0, 1)

    assert caught.value.message == r"no such file: 'a\nb\u202e\x1b'"
    assert len(show_path("x" * 4096)) < 250


@given(st.text("aé\n\r\U0001f600", max_size=20), st.integers(0, 25), st.integers(1, 25))
def test_parts_of_a_file_are_counted_in_characters(
    tmp_path_factory: pytest.TempPathFactory, text: str, offset: int, size: int
) -> None:
    workspace = Workspace(tmp_path_factory.getbasetemp())
    workspace.write_text("parts.txt", text)

    part, more = workspace.read_text("parts.txt", offset, size)

    assert part == text[offset : offset + size]
    assert more == (len(text) > offset + size)


def test_writing_makes_the_file_and_its_folders(workspace: Workspace, root: Path) -> None:
    assert workspace.write_text("out/new/é.txt", "é!") == 3

    assert (root / "out/new/é.txt").read_text() == "é!"
    assert stat.S_IMODE((root / "out/new/é.txt").stat().st_mode) == 0o600


def test_writing_replaces_the_whole_file_and_keeps_its_mode(
    workspace: Workspace, root: Path
) -> None:
    (root / "notes.txt").chmod(0o664)

    workspace.write_text("notes.txt", "x")

    assert (root / "notes.txt").read_text() == "x"
    assert stat.S_IMODE((root / "notes.txt").stat().st_mode) == 0o664
    assert workspace.list_names() == ("notes.txt",)


def test_an_open_reader_keeps_the_old_content(workspace: Workspace, root: Path) -> None:
    with (root / "notes.txt").open() as reader:
        workspace.write_text("notes.txt", "new")

        assert reader.read() == "hello"


def test_a_read_only_file_is_not_replaced(workspace: Workspace, root: Path) -> None:
    (root / "notes.txt").chmod(0o400)

    with pytest.raises(E_PERM, match="permission denied"):
        workspace.write_text("notes.txt", "x")


@pytest.mark.parametrize("path", [".", "folder"])
def test_a_folder_is_not_replaced_by_a_file(workspace: Workspace, root: Path, path: str) -> None:
    (root / "folder").mkdir()

    with pytest.raises(E_ARG, match="a folder, not a file"):
        workspace.write_text(path, "x")


def test_text_that_is_no_unicode_is_refused_and_changes_nothing(workspace: Workspace) -> None:
    with pytest.raises(E_ARG, match="not UTF-8"):
        workspace.write_text("notes.txt", "\ud800")

    assert workspace.read_text("notes.txt", 0, 10) == ("hello", False)


def test_names_are_sorted_and_folders_end_in_a_slash(workspace: Workspace, root: Path) -> None:
    (root / "b").mkdir()
    (root / "a").write_text("")
    (root / "link").symlink_to(root / "b")

    assert workspace.list_names() == ("a", "b/", "link", "notes.txt")
    assert workspace.list_names("b") == ()


def test_a_name_that_is_not_utf_8_is_shown_as_text(workspace: Workspace, root: Path) -> None:
    (root / os.fsdecode(b"\xff")).write_text("")

    assert workspace.list_names() == ("notes.txt", "\ufffd")


def test_listing_a_file_or_nothing_is_an_argument_error(workspace: Workspace) -> None:
    for path in ("notes.txt", "nothing"):
        with pytest.raises(E_ARG):
            workspace.list_names(path)


def test_a_folder_with_too_many_names_says_so(workspace: Workspace, root: Path) -> None:
    for number in range(MAX_NAMES):
        os.mknod(root / str(number))

    with pytest.raises(E_ARG, match="over 10000 names"):
        workspace.list_names()


def test_a_file_that_a_person_named_may_be_read_and_no_more(root: Path) -> None:
    secret = root.parent / "secret.txt"
    workspace = Workspace(root, (secret,))

    assert workspace.read_text(str(secret), 0, 100) == ("secret", False)
    with pytest.raises(E_PERM, match="may only be read"):
        workspace.write_text(str(secret), "x")
    with pytest.raises(E_PERM, match="may only be read"):
        workspace.open_file(str(secret), os.O_RDWR)
    with pytest.raises(E_ARG, match="a file, not a folder"):
        workspace.list_names(str(secret))
    with pytest.raises(E_PERM, match="outside"):
        workspace.read_text(str(root.parent / "other.txt"), 0, 100)


def test_no_descriptor_is_left_open(workspace: Workspace, root: Path) -> None:
    os.mkfifo(root / "pipe")
    (root / "link").symlink_to(root)
    before = len(os.listdir("/proc/self/fd"))

    for path in ("notes.txt", "pipe", "link", "link/x", "none/x", "..", ".", "new/file"):
        with contextlib.suppress(SyscallError):
            workspace.list_names(path)
        with contextlib.suppress(SyscallError):
            workspace.read_text(path, 0, 9)
        with contextlib.suppress(SyscallError):
            workspace.write_text(path, "x")

    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, E_STORAGE),
        (errno.EIO, E_STORAGE),
        (errno.EROFS, E_STORAGE),
        (errno.EDQUOT, E_STORAGE),
        (errno.EACCES, E_PERM),
        (errno.ENOENT, E_ARG),
        (errno.EXDEV, E_ARG),
    ],
)
def test_every_system_error_has_a_type(number: int, kind: type[SyscallError]) -> None:
    with pytest.raises(kind) as caught, typed_errors("a.txt"):
        raise OSError(number, os.strerror(number))

    assert caught.value.message.endswith(": 'a.txt'")
