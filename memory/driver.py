"""The driver below SQLAlchemy, for the statements that every call makes.

What SQLAlchemy does around a short statement and its row costs several times the statement.
"""

import sqlite3
from pathlib import Path
from typing import cast
from urllib.parse import quote

from sqlalchemy import Connection


def driver_of(connection: Connection) -> sqlite3.Connection:
    """The SQLite connection; its errors are sqlite3's own."""
    return cast("sqlite3.Connection", connection.connection.dbapi_connection)


def open_read_only(path: Path) -> sqlite3.Connection:
    """A connection that can neither write to the file nor make it. Raises sqlite3.Error."""
    driver = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, isolation_level=None
    )
    driver.execute("PRAGMA trusted_schema = OFF")
    return driver
