"""The store of remembered items: they are added, superseded, forgotten, never rewritten.

Every item lies in a named space of one tenant. A short turn is indexed together with the two
turns before and after it in its session (`ctx`), since such a turn rarely says by itself what it
is about; `ctx` holds the text of live neighbours only, so a forgotten text is found nowhere.

The text index holds no text of its own: an entry can only be taken out by naming the very values
that went in. So every change of an indexed column is `unindex`, change, `index`.
"""

import secrets
import time
from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection

from llmos.syscalls.errors import E_ARG

from .seal import read_sealed, seal

MAX_SHORT_TURN_CHARS = 240
MAX_NEIGHBOUR_CHARS = 1000
NUM_NEIGHBOURS = 2
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip


class Item(msgspec.Struct, frozen=True):
    """Something to remember. Times are Unix seconds; `session` orders the turns of one talk.

    From `valid_to` on it is no longer recalled. `supersedes` is the uid of an item of the same
    space that this one replaces; `sources` are uids of items that it was made from.
    """

    tenant: str
    space: str
    text: str
    recorded_at: float
    kind: str = "note"
    role: str = ""
    session: str | None = None
    valid_to: float | None = None
    supersedes: str | None = None
    sources: tuple[str, ...] = ()


def remember(connection: Connection, item: Item) -> str:
    """Add an item, making its space and session on first use; its uid.

    E_ARG names the field for text that is not valid Unicode or a uid that the space lacks.
    """
    require_unicode(item)
    space_id = add_space(connection, item.tenant, item.space)
    session_id, seq = None, 0
    if item.session is not None:
        session_id = add_session(connection, space_id, item.session, item.recorded_at)
        seq = next_seq(connection, session_id)
    uid = make_uid(item.recorded_at)
    item_id = insert_item(connection, item, uid, space_id, session_id, seq)
    if item.supersedes is not None:
        old_id = require_item(connection, space_id, item.supersedes, "supersedes")
        read_sealed(connection, old_id)
        connection.exec_driver_sql(
            "UPDATE item SET superseded_by = ? WHERE id = ?", (item_id, old_id)
        )
        seal(connection, old_id)
    for source in item.sources:
        source_id = require_item(connection, space_id, source, "sources")
        connection.exec_driver_sql("INSERT INTO item_source VALUES (?, ?)", (item_id, source_id))
    if session_id is not None:
        refresh_neighbours(connection, session_id, seq)
    return uid


def forget(connection: Connection, tenant: str, space: str, uid: str) -> bool:
    """Erase an item's text and make it unfindable; whether there was such an item."""
    row = connection.exec_driver_sql(
        "SELECT item.id, item.session_id, item.seq FROM item JOIN space ON space.id = space_id"
        " WHERE uid = ? AND tenant = ? AND name = ? AND deleted_at IS NULL",
        (uid, tenant, space),
    ).first()
    if row is None:
        return False
    unindex(connection, row.id)
    connection.exec_driver_sql(
        "UPDATE item SET body = '', ctx = '', head = '', deleted_at = ? WHERE id = ?",
        (time.time(), row.id),
    )
    seal(connection, row.id)
    index(connection, row.id)
    if row.session_id is not None:
        refresh_neighbours(connection, row.session_id, row.seq)
    return True


def require_unicode(item: Item) -> None:
    """E_ARG for a text with half of a surrogate pair: it has no bytes to give back."""
    for field in ("text", "space", "role", "session"):
        try:
            (getattr(item, field) or "").encode()
        except UnicodeEncodeError as error:
            raise E_ARG("half of a surrogate pair is not text", field=field) from error


def add_space(connection: Connection, tenant: str, name: str) -> int:
    """The id of a tenant's space, which is made if it is new."""
    connection.exec_driver_sql(
        "INSERT INTO space(tenant, name) VALUES (?, ?) ON CONFLICT DO NOTHING", (tenant, name)
    )
    row = connection.exec_driver_sql(
        "SELECT id FROM space WHERE tenant = ? AND name = ?", (tenant, name)
    )
    return int(row.scalar_one())


def add_session(connection: Connection, space_id: int, name: str, started_at: float) -> int:
    """The id of a space's session, which is made if it is new."""
    connection.exec_driver_sql(
        "INSERT INTO session(space_id, name, started_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        (space_id, name, started_at),
    )
    row = connection.exec_driver_sql(
        "SELECT id FROM session WHERE space_id = ? AND name = ?", (space_id, name)
    )
    return int(row.scalar_one())


def next_seq(connection: Connection, session_id: int) -> int:
    """The place of a session's next item."""
    row = connection.exec_driver_sql(
        "SELECT coalesce(max(seq) + 1, 0) FROM item WHERE session_id = ?", (session_id,)
    )
    return int(row.scalar_one())


def insert_item(
    connection: Connection, item: Item, uid: str, space_id: int, session_id: int | None, seq: int
) -> int:
    """Write the row and index it, as yet without its neighbours; its id."""
    row = connection.exec_driver_sql(
        "INSERT INTO item(uid, space_id, session_id, seq, kind, role, recorded_at, valid_to,"
        " checksum, head, body, ctx) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '')",
        (
            uid,
            space_id,
            session_id,
            seq,
            item.kind,
            item.role,
            item.recorded_at,
            item.valid_to,
            b"",
            f"{item.role} {date_words(item.recorded_at)}",
            item.text,
        ),
    )
    item_id = int(row.lastrowid)
    seal(connection, item_id)
    index(connection, item_id)
    return item_id


def index(connection: Connection, item_id: int) -> None:
    """Put an item into the text index."""
    connection.exec_driver_sql(
        "INSERT INTO item_fts(rowid, body, ctx, head)"
        " SELECT id, body, ctx, head FROM item WHERE id = ?",
        (item_id,),
    )


def unindex(connection: Connection, item_id: int) -> None:
    """Take an item out of the text index, before any indexed column of it changes."""
    connection.exec_driver_sql(
        "INSERT INTO item_fts(item_fts, rowid, body, ctx, head)"
        " SELECT 'delete', id, body, ctx, head FROM item WHERE id = ?",
        (item_id,),
    )


def require_item(connection: Connection, space_id: int, uid: str, field: str) -> int:
    """The id of a live item of the space; E_ARG if there is none."""
    found = connection.exec_driver_sql(
        "SELECT id FROM item WHERE uid = ? AND space_id = ? AND deleted_at IS NULL",
        (uid, space_id),
    ).scalar()
    if found is None:
        raise E_ARG("there is no such item in the space", field=field)
    return int(found)


def refresh_neighbours(connection: Connection, session_id: int, seq: int) -> None:
    """Bring `ctx` up to date for the item at `seq`, if it lives, and its neighbours."""
    reach = 2 * NUM_NEIGHBOURS
    columns = "SELECT id, seq, kind, body, ctx FROM item WHERE session_id = ? AND seq"
    before = connection.exec_driver_sql(
        f"{columns} < ? AND deleted_at IS NULL ORDER BY seq DESC LIMIT ?", (session_id, seq, reach)
    ).all()
    after = connection.exec_driver_sql(
        f"{columns} >= ? AND deleted_at IS NULL ORDER BY seq LIMIT ?", (session_id, seq, reach + 1)
    ).all()
    window = [*reversed(before), *after]
    first = max(len(before) - NUM_NEIGHBOURS, 0)
    for place in range(first, min(len(before) + NUM_NEIGHBOURS + 1, len(window))):
        row = window[place]
        around = window[max(place - NUM_NEIGHBOURS, 0) : place]
        around += window[place + 1 : place + 1 + NUM_NEIGHBOURS]
        ctx = neighbour_text(row.kind, row.body, [other.body for other in around])
        if ctx != row.ctx:
            unindex(connection, row.id)
            connection.exec_driver_sql("UPDATE item SET ctx = ? WHERE id = ?", (ctx, row.id))
            index(connection, row.id)


def neighbour_text(kind: str, body: str, around: Sequence[str]) -> str:
    """What an item is indexed with beside its own text: nothing unless it is a short turn."""
    if kind != "turn" or len(body) >= MAX_SHORT_TURN_CHARS:
        return ""
    return "\n".join(text[:MAX_NEIGHBOUR_CHARS] for text in around)


def date_words(at: float) -> str:
    """A Unix time as the words that a question may use: `8 May 2023` (UTC)."""
    day = time.gmtime(at)
    return f"{day.tm_mday} {MONTHS[day.tm_mon - 1]} {day.tm_year}"


def make_uid(at: float) -> str:
    """A ULID: 48 bits of milliseconds, 80 random ones, 26 characters (github.com/ulid/spec)."""
    number = (int(at * 1000) & (2**48 - 1)) << 80 | secrets.randbits(80)
    return "".join(CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))
