"""File systems on which a store must not lie: a write-ahead log needs memory that readers share.

SQLite itself cannot tell: over a network its log seems to work, until two machines meet in it.
See sqlite.org/wal.html and proc_pid_mountinfo(5).
"""

import re
from pathlib import Path

from llmos.syscalls.errors import E_STORAGE

MOUNTS = Path("/proc/self/mountinfo")
NETWORKS = frozenset(
    """afs beegfs ceph cifs coda davfs fuse.ceph fuse.glusterfs fuse.rclone fuse.s3fs fuse.sshfs
    gfs gfs2 glusterfs gpfs lustre ncpfs nfs nfs4 ocfs2 orangefs smb2 smb3 smbfs""".split()
)
_OCTAL = re.compile(r"\\(\d{3})")


def require_local(path: Path) -> None:
    """E_STORAGE if the file would lie on another machine. Where that cannot be known it passes."""
    try:
        mounts = MOUNTS.read_text()
    except OSError:
        return  # no Linux
    kind = find_kind(path.absolute().parent, mounts)
    if kind in NETWORKS:
        raise E_STORAGE(
            f"{path} lies on a network file system ({kind}), where a store breaks;"
            " fix: set LLMOS_HOME to a folder on a local disk"
        )


def find_kind(folder: Path, mounts: str) -> str:
    """The type of the file system that a folder is on, from the kernel's table; "" if unknown."""
    place = folder.resolve()
    found = ""
    longest = -1
    for line in mounts.splitlines():
        fields, separator, rest = line.partition(" - ")
        point = Path(_OCTAL.sub(lambda code: chr(int(code[1], 8)), fields.split()[4]))
        depth = len(point.parts)
        if separator and depth >= longest and place.is_relative_to(point):
            found, longest = rest.split()[0], depth  # of two on one point the later one counts
    return found
