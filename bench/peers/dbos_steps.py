"""Steps of DBOS Transact, timed: `python -m bench.peers.dbos_steps DATABASE NUM_WORKFLOWS SECONDS`.

Runs in DBOS's own environment. Each workflow asks for the time in one step after the other; a step
is durable when it returns. Prints a JSON list: steps a second, median and 99th percentile in
milliseconds.
"""

import json
import sqlite3
import sys
import time

from dbos import DBOS, DBOSConfig
from sqlalchemy import Engine, event


@event.listens_for(Engine, "connect")
def set_safest(connection: sqlite3.Connection, record: object) -> None:
    """What survives a power cut. It is SQLite's default; said here so that it is known."""
    connection.execute("PRAGMA synchronous = FULL")


def begin_log(database: str) -> None:
    """Have a write-ahead log, as our own store has; DBOS alone would use a rollback journal."""
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()


@DBOS.step()  # type: ignore[untyped-decorator]
def now() -> float:
    """What a step does: nothing that takes time."""
    return time.time()


@DBOS.workflow()  # type: ignore[untyped-decorator]
def ask_the_time(start_at: float, seconds: float) -> list[float]:
    """Steps until the time is over; the milliseconds of each."""
    time.sleep(max(0.0, start_at - time.time()))
    took = []
    while time.time() < start_at + seconds:
        begun = time.perf_counter()
        now()
        took.append(1000 * (time.perf_counter() - begun))
    return took


def main() -> None:
    """All workflows side by side, each in a thread of its own."""
    database, num_workflows, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    begin_log(database)
    config: DBOSConfig = {
        "name": "steps",
        "system_database_url": f"sqlite:///{database}",
        "run_admin_server": False,
        "log_level": "ERROR",
    }
    DBOS(config=config)
    DBOS.launch()
    start_at = time.time() + 3.0
    handles = [DBOS.start_workflow(ask_the_time, start_at, seconds) for _ in range(num_workflows)]
    took = sorted(ms for handle in handles for ms in handle.get_result())
    print(json.dumps([len(took) / seconds, took[len(took) // 2], took[len(took) * 99 // 100]]))
    DBOS.destroy()


if __name__ == "__main__":
    main()
