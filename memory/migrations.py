"""Numbered steps that bring a database file to the schema of this version.

The file's `user_version` is the number of steps it has had. Each step runs in a transaction of
its own together with that number, so a crash between two of them loses nothing. A step that was
released never changes; tables and columns are added by new steps.
"""

from collections.abc import Callable

from sqlalchemy import Connection

from llmos.syscalls.errors import E_STORAGE

from .schema import last_commit, metadata

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


def number_contexts(connection: Connection) -> None:
    """Step 4: contexts are numbered within their process, where they were numbered over all.

    Those that are there keep their numbers, which journals and apps know.
    """
    if "number" not in column_names(connection, "context"):
        connection.exec_driver_sql("ALTER TABLE context ADD COLUMN number INTEGER")
        connection.exec_driver_sql("UPDATE context SET number = id")
        connection.exec_driver_sql("CREATE UNIQUE INDEX context_number ON context (pid, number)")


def name_writers(connection: Connection) -> None:
    """Step 5: output names the call that wrote it; of what is older nobody knows."""
    if "strand" not in column_names(connection, "output"):
        connection.exec_driver_sql("ALTER TABLE output ADD COLUMN strand TEXT")
        connection.exec_driver_sql("ALTER TABLE output ADD COLUMN seq INTEGER")


def column_names(connection: Connection, table: str) -> set[str]:
    """The columns that a table has in this file."""
    return {row.name for row in connection.exec_driver_sql(f"PRAGMA table_info({table})")}


STEPS: tuple[Callable[[Connection], None], ...] = (
    create_tables,
    create_search_index,
    number_commits,
    number_contexts,
    name_writers,
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
