"""The driver below SQLAlchemy, for the statements that every call makes.

What SQLAlchemy does around a short statement and its row costs several times the statement.
"""

import sqlite3
from typing import cast

from sqlalchemy import Connection


def driver_of(connection: Connection) -> sqlite3.Connection:
    """The SQLite connection; its errors are sqlite3's own."""
    return cast("sqlite3.Connection", connection.connection.dbapi_connection)
