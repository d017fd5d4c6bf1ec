"""Where a store may lie."""

from pathlib import Path

import pytest

from llmos.memory import filesystem
from llmos.memory.db import Database
from llmos.memory.filesystem import find_kind, require_local
from llmos.syscalls.errors import E_STORAGE

MOUNTS = """\
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw
31 27 0:40 / /home rw - nfs4 server:/home rw,vers=4.2
32 31 0:41 / /home/local\\040disk rw - xfs /dev/sdb rw
33 27 0:42 / /over rw - ext4 /dev/sdc rw
34 33 0:43 / /over rw - cifs //server/share rw
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/var/lib", "ext4"),
        ("/home/me/llmos", "nfs4"),
        ("/homely", "ext4"),
        ("/home/local disk/llmos", "xfs"),
        ("/over", "cifs"),
    ],
)
def test_the_nearest_mount_says_what_a_folder_is_on(folder: str, kind: str) -> None:
    assert find_kind(Path(folder), MOUNTS) == kind


def test_a_folder_that_no_mount_covers_is_of_no_known_kind() -> None:
    assert find_kind(Path("/var"), "") == ""


def test_a_store_on_a_network_is_refused_before_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "mountinfo"
    table.write_text("27 1 0:40 / / rw - nfs4 server:/ rw\n")
    monkeypatch.setattr(filesystem, "MOUNTS", table)

    with pytest.raises(E_STORAGE, match=r"network file system \(nfs4\).*; fix: set LLMOS_HOME"):
        Database.open(tmp_path / "memory.db")

    assert not (tmp_path / "memory.db").exists()


def test_where_there_is_no_table_of_mounts_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystem, "MOUNTS", tmp_path / "nothing")

    require_local(tmp_path / "memory.db")
