"""The tables of the store, as SQLAlchemy Core metadata.

Times are Unix seconds. Columns that searches filter by stand before long texts: SQLite reads a
row from its start, and what follows a long text lies on other disk pages. The text index
`item_fts` is not here: no dialect-neutral form of it exists (see migrations).
"""

from sqlalchemy import (
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData()

space = Table(
    "space",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("name", Text, nullable=False),
    UniqueConstraint("tenant", "name"),
)

session = Table(
    "session",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("space_id", ForeignKey("space.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("started_at", Float, nullable=False),
    UniqueConstraint("space_id", "name"),
)

item = Table(
    "item",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("uid", Text, nullable=False, unique=True),
    Column("space_id", ForeignKey("space.id"), nullable=False),
    Column("session_id", ForeignKey("session.id")),
    Column("seq", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("recorded_at", Float, nullable=False),
    Column("valid_to", Float),
    Column("superseded_by", ForeignKey("item.id")),
    Column("deleted_at", Float),
    Column("checksum", LargeBinary, nullable=False),
    Column("head", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("ctx", Text, nullable=False),
    UniqueConstraint("session_id", "seq"),
)

item_source = Table(
    "item_source",
    metadata,
    Column("item_id", ForeignKey("item.id"), primary_key=True),
    Column("source_item_id", ForeignKey("item.id"), primary_key=True),
)

context = Table(
    "context",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("pid", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("number", Integer, nullable=False),
    Column("num_messages", Integer),
    Column("checksum", LargeBinary),
    Index("context_number", "pid", "number", unique=True),
    sqlite_autoincrement=True,
)

message = Table(
    "message",
    metadata,
    Column("context_id", ForeignKey("context.id"), primary_key=True),
    Column("pos", Integer, primary_key=True),
    Column("role", Text, nullable=False),
    Column("checksum", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
)

process = Table(
    "process",
    metadata,
    Column("pid", Integer, primary_key=True),
    Column("parent", Integer),
    Column("app", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("exit_status", Text),
    Column("exit_code", Integer),
    Column("created_at", Float, nullable=False),
    Column("ended_at", Float),
    Column("prompt_tokens", Integer, nullable=False),
    Column("completion_tokens", Integer, nullable=False),
    Column("spec", LargeBinary, nullable=False),
    Column("result", Text),
    Column("checksum", LargeBinary),
    Column("num_restarts", Integer, nullable=False, server_default="0"),
    Column("restarted_at", Float),
    Index("process_parent", "parent"),
    Index("process_unfinished", "state", sqlite_where=text("ended_at IS NULL")),
    sqlite_autoincrement=True,
)

wait = Table(
    "wait",
    metadata,
    Column("pid", Integer, primary_key=True, autoincrement=False),
    Column("strand", Text, primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("kind", Text, nullable=False),
    Column("set_at", Float, nullable=False),
    Column("due_at", Float),
    Column("target", Integer),
    Index("wait_due_at", "due_at", sqlite_where=text("due_at IS NOT NULL")),
    Index("wait_target", "kind", "target"),
)

mail = Table(
    "mail",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("pid", Integer, nullable=False),
    Column("sender", Integer, nullable=False),
    Column("sent_at", Float, nullable=False),
    Column("checksum", LargeBinary, nullable=False),
    Column("text", Text, nullable=False),
    Index("mail_pid", "pid"),
    sqlite_autoincrement=True,
)

journal = Table(
    "journal",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("pid", Integer, nullable=False),
    Column("strand", Text, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("effect", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("label", Text, nullable=False),
    Column("code_hash", Text, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("state", Text, nullable=False),
    Column("ended_at", Float),
    Column("prev_hash", LargeBinary, nullable=False),
    Column("checksum", LargeBinary, nullable=False),
    Column("result", LargeBinary),
    Column("error", LargeBinary),
    Column("blob", LargeBinary),
    UniqueConstraint("pid", "strand", "seq"),
    Index("journal_pid", "pid"),
    Index("journal_blob", "blob", sqlite_where=text("blob IS NOT NULL")),
)

output = Table(
    "output",
    metadata,
    Column("pid", Integer, primary_key=True, autoincrement=False),
    Column("offset_chars", Integer, primary_key=True, autoincrement=False),
    Column("num_chars", Integer, nullable=False),
    Column("text", Text, nullable=False),
    Column("strand", Text),
    Column("seq", Integer),
    Column("checksum", LargeBinary),
)

extent = Table(
    "extent",
    metadata,
    Column("pid", Integer, primary_key=True, autoincrement=False),
    Column("num_rows", Integer, nullable=False),
    Column("first_hash", LargeBinary, nullable=False),
    Column("last_hash", LargeBinary, nullable=False),
    Column("num_chars", Integer, nullable=False),
    Column("num_contexts", Integer, nullable=False),
    Column("checksum", LargeBinary, nullable=False),
)

blob = Table(
    "blob",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("body", LargeBinary, nullable=False),
)

chunk = Table(
    "chunk",
    metadata,
    Column("pid", Integer, primary_key=True, autoincrement=False),
    Column("strand", Text, primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("branch", Integer, primary_key=True, autoincrement=False),
    Column("first_token", Integer, primary_key=True, autoincrement=False),
    Column("checksum", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

last_commit = Table(
    "last_commit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("number", Integer, nullable=False),
)
