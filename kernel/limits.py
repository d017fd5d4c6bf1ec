"""How long a process's journal may become: when it is warned, and when its calls are refused.

What is counted is what the store holds, so after a restart the count is the same, and a replay is
refused where the first run was. Only a checkpoint makes it less.
"""

import msgspec

from llmos.memory.journal import ROW_BYTES
from llmos.syscalls.errors import E_LIMIT

from .process import Process
from .protocol import Notice

MAX_JOURNAL_ROWS = 50_000
MAX_JOURNAL_BYTES = 50_000_000
WARN_SHARE = 0.5


class JournalLimits(msgspec.Struct, frozen=True):
    """What one process's journal may hold."""

    max_rows: int = MAX_JOURNAL_ROWS
    max_bytes: int = MAX_JOURNAL_BYTES

    def count(self, process: Process, body_bytes: int, *, is_new: bool) -> None:
        """A row was written, or one got its body. The process is warned once, at half."""
        before = self._share(process)
        process.num_journal_rows += is_new
        process.num_journal_bytes += body_bytes + ROW_BYTES * is_new
        if before < WARN_SHARE <= self._share(process):
            what = f"the journal of process {process.pid} is half full"
            process.terminal.emit(Notice(f"{what}; fix: sys.checkpoint, before calls are refused"))

    def require_room(self, process: Process) -> None:
        """E_LIMIT when the journal is full."""
        if self._share(process) >= 1:
            held = f"{process.num_journal_rows} calls and {process.num_journal_bytes} bytes"
            raise E_LIMIT(
                f"the journal of process {process.pid} is full with {held}; "
                "fix: call sys.checkpoint before, which begins anew with an empty one",
                field="journal",
            )

    def _share(self, process: Process) -> float:
        rows = process.num_journal_rows / self.max_rows
        return max(rows, process.num_journal_bytes / self.max_bytes)
