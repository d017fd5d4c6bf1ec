"""Numbered steps that bring a database file to the schema of this version.

The file's `user_version` is the number of steps it has had. Each step runs in a transaction of
its own together with that number, so a crash between two of them loses nothing. A step that was
released never changes; tables and columns are added by new steps.
"""

from collections.abc import Callable

from sqlalchemy import Connection

from llmos.syscalls.errors import E_STORAGE

from .schema import chunk, last_commit, mail, metadata, process, wait

APPLICATION_ID = int.from_bytes(b"LLMO", "big")

SEARCH_INDEX = """
CREATE VIRTUAL TABLE item_fts USING fts5(
  body, ctx, head, content='item', content_rowid='id', tokenize='porter unicode61')
"""


def create_tables(connection: Connection) -> None:
    """Step 1: the tables."""
    metadata.create_all(connection, checkfirst=False)


def create_search_index(connection: Connection) -> None:
    """Step 2: the text index over `item`, which holds no text of its own.

    It has no triggers: SQLite before 3.41 forbids them on a text index where the schema is not
    trusted. The functions of `store` change an item and its index entry together.
    """
    connection.exec_driver_sql(SEARCH_INDEX)


def number_commits(connection: Connection) -> None:
    """Step 3: the number of the last transaction, where step 1 was run before it had a table."""
    last_commit.create(connection, checkfirst=True)


def keep_tokens(connection: Connection) -> None:
    """Step 4: the tokens of running generations, where step 1 was run before they had a table."""
    chunk.create(connection, checkfirst=True)


def add_waits(connection: Connection) -> None:
    """Step 5: what sleeping processes wait for, their mail, and how often they were restarted."""
    columns = {row.name for row in connection.exec_driver_sql("PRAGMA table_info(process)")}
    for name, kind in (("num_restarts", "INTEGER DEFAULT '0' NOT NULL"), ("restarted_at", "FLOAT")):
        if name not in columns:
            connection.exec_driver_sql(f"ALTER TABLE process ADD COLUMN {name} {kind}")
    for index in process.indexes:
        index.create(connection, checkfirst=True)
    for table in (wait, mail):
        table.create(connection, checkfirst=True)


STEPS: tuple[Callable[[Connection], None], ...] = (
    create_tables,
    create_search_index,
    number_commits,
    keep_tokens,
    add_waits,
)


def require_ours(connection: Connection) -> None:
    """E_STORAGE unless the file is empty or a store of this version or an older one."""
    application_id = connection.exec_driver_sql("PRAGMA application_id").scalar_one()
    version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    if application_id != APPLICATION_ID:
        if application_id or version or has_tables(connection):
            raise E_STORAGE("it is another program's database; name another file")
    elif version > len(STEPS):
        raise E_STORAGE(
            f"its schema is number {version} and this llmos knows {len(STEPS)}; update llmos"
        )


def has_tables(connection: Connection) -> bool:
    """Whether anything was ever created in the file."""
    return bool(connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one())


def migrate(connection: Connection) -> None:
    """Run the steps that the file has not had. `connection` is in driver autocommit mode."""
    version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    for number, step in enumerate(STEPS[version:], start=version + 1):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        step(connection)
        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.exec_driver_sql(f"PRAGMA user_version = {number}")
        connection.exec_driver_sql("COMMIT")
