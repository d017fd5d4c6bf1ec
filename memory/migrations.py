"""Numbered steps that bring a database file to the schema of this version.

The file's `user_version` is the number of steps it has had. Each step runs in a transaction of
its own together with that number, so a crash between two of them loses nothing. A step that was
released never changes; tables and columns are added by new steps.
"""

from collections.abc import Callable

from sqlalchemy import Connection, inspect

from llmos.syscalls.errors import E_STORAGE

from .checksum import checksum
from .driver import driver_of
from .schema import blob, chunk, extent, last_commit, mail, metadata, process, wait

APPLICATION_ID = int.from_bytes(b"LLMO", "big")

SEARCH_INDEX = """
CREATE VIRTUAL TABLE item_fts USING fts5(
  body, ctx, head, content='item', content_rowid='id', tokenize='porter unicode61')
"""
ADD_EXTENTS = """
INSERT INTO extent
SELECT pid, num_rows, X'', last_hash, num_chars, num_contexts,
  llmos_checksum(pid, num_rows, X'', last_hash, num_chars, num_contexts)
FROM (
  SELECT owner.pid AS pid,
    (SELECT count(*) FROM journal WHERE journal.pid = owner.pid) AS num_rows,
    coalesce((
      SELECT llmos_checksum(journal.pid, strand, seq, name, effect, digest, label, code_hash,
        started_at, prev_hash)
      FROM journal WHERE journal.pid = owner.pid ORDER BY id DESC LIMIT 1), X'') AS last_hash,
    coalesce((
      SELECT max(offset_chars + num_chars) FROM output WHERE output.pid = owner.pid),
      0) AS num_chars,
    (SELECT count(*) FROM context WHERE context.pid = owner.pid) AS num_contexts
  FROM (
    SELECT pid FROM journal UNION SELECT pid FROM output UNION SELECT pid FROM context) AS owner)
"""
SEAL_NOTES = """
UPDATE item SET checksum = llmos_checksum(uid,
  (SELECT tenant FROM space WHERE space.id = space_id),
  (SELECT name FROM space WHERE space.id = space_id),
  kind, role, recorded_at, valid_to, superseded_by, deleted_at, body)
WHERE checksum = llmos_checksum(uid, body)
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
    add_column(connection, "process", "num_restarts INTEGER DEFAULT '0' NOT NULL")
    add_column(connection, "process", "restarted_at FLOAT")
    for index in process.indexes:
        index.create(connection, checkfirst=True)
    for table in (wait, mail):
        table.create(connection, checkfirst=True)


def number_contexts(connection: Connection) -> None:
    """Step 6: contexts are numbered within their process, where they were numbered over all.

    Those that are there keep their numbers, which journals and apps know.
    """
    if add_column(connection, "context", "number INTEGER"):
        connection.exec_driver_sql("UPDATE context SET number = id")
        connection.exec_driver_sql("CREATE UNIQUE INDEX context_number ON context (pid, number)")


def name_writers(connection: Connection) -> None:
    """Step 7: output names the call that wrote it; of what is older nobody knows."""
    if add_column(connection, "output", "strand TEXT"):
        connection.exec_driver_sql("ALTER TABLE output ADD COLUMN seq INTEGER")


def keep_large_bodies_apart(connection: Connection) -> None:
    """Step 8: bodies that are too large for a row of the journal. Rows that have theirs keep it."""
    blob.create(connection, checkfirst=True)
    if add_column(connection, "journal", "blob BLOB"):
        connection.exec_driver_sql(
            "CREATE INDEX journal_blob ON journal (blob) WHERE blob IS NOT NULL"
        )


def prove_processes(connection: Connection) -> None:
    """Step 9: how far each process came, and checksums of what it wrote and of its record.

    What is there now is taken for true: nothing else says what it was.
    """
    if not inspect(connection).has_table("extent"):
        extent.create(connection)
        connection.exec_driver_sql(ADD_EXTENTS)
    if add_column(connection, "output", "checksum BLOB"):
        connection.exec_driver_sql(
            "UPDATE output SET checksum = llmos_checksum(pid, offset_chars, num_chars, text,"
            " strand, seq)"
        )
    if add_column(connection, "process", "checksum BLOB"):
        connection.exec_driver_sql(
            "UPDATE process SET checksum = llmos_checksum(pid, parent, app, tenant, model,"
            " exit_status, exit_code, created_at, ended_at, prompt_tokens, completion_tokens, spec,"
            " result)"
        )


def prove_contexts_and_notes(connection: Connection) -> None:
    """Step 10: a context says how many messages it has; a note's checksum covers all of it.

    A note that is damaged by its old checksum keeps that, which is wrong by the new rule too.
    """
    if add_column(connection, "context", "num_messages INTEGER"):
        connection.exec_driver_sql("ALTER TABLE context ADD COLUMN checksum BLOB")
        connection.exec_driver_sql(
            "UPDATE context SET num_messages ="
            " (SELECT count(*) FROM message WHERE context_id = context.id)"
        )
        connection.exec_driver_sql(
            "UPDATE context SET checksum = llmos_checksum(id, pid, created_at, number,"
            " num_messages)"
        )
    connection.exec_driver_sql(SEAL_NOTES)


STEPS: tuple[Callable[[Connection], None], ...] = (
    create_tables,
    create_search_index,
    number_commits,
    keep_tokens,
    add_waits,
    number_contexts,
    name_writers,
    keep_large_bodies_apart,
    prove_processes,
    prove_contexts_and_notes,
)


def add_column(connection: Connection, table: str, column: str) -> bool:
    """Add a column ("name TYPE") to a table that an older version made; False if it has it."""
    names = connection.exec_driver_sql(f"PRAGMA table_info({table})").scalars(1).all()
    if column.split()[0] in names:
        return False
    connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {column}")
    return True


def require_ours(connection: Connection) -> None:
    """E_STORAGE unless the file is empty or a store of this version or an older one."""
    application_id = connection.exec_driver_sql("PRAGMA application_id").scalar_one()
    version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    if application_id != APPLICATION_ID:
        if application_id or version or has_tables(connection):
            raise E_STORAGE("it is another program's database; name another file")
    elif version < 0:
        raise E_STORAGE(f"its schema is number {version}, which is damage; restore a backup of it")
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
    driver_of(connection).create_function("llmos_checksum", -1, checksum, deterministic=True)
    for number, step in enumerate(STEPS[version:], start=version + 1):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        step(connection)
        connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.exec_driver_sql(f"PRAGMA user_version = {number}")
        connection.exec_driver_sql("COMMIT")
