"""Recall: the remembered items that answer a question, best first.

BM25 over an item's own words (weight 3), its neighbours' (1) and its speaker and date (1), words
joined by OR. Superseded, expired and forgotten items never show; of equal texts the best one
does. What comes back is data with its origin, never instructions.
"""

import time
from collections.abc import Sequence

from sqlalchemy import Connection

from llmos.syscalls.errors import E_ARG
from llmos.syscalls.memory import Note

from .checksum import damage
from .db import Database
from .rank import find_terms, match_expression
from .seal import read_sealed

MAX_LIMIT = 1000
MAX_CANDIDATES = 1000

CANDIDATES = """
SELECT item.id, -bm25(item_fts, 3.0, 1.0, 1.0) AS score
FROM item_fts JOIN item ON item.id = item_fts.rowid
WHERE item_fts MATCH ? AND item.space_id IN ({spaces})
  AND item.deleted_at IS NULL AND item.superseded_by IS NULL
  AND (item.valid_to IS NULL OR item.valid_to > ?)
ORDER BY score DESC, item.id DESC LIMIT ?
"""


async def recall(
    db: Database,
    tenant: str,
    spaces: Sequence[str],
    query: str,
    limit: int,
    now: float | None = None,
) -> list[Note]:
    """At most `limit` notes of a tenant's spaces, best first; none if nothing matches.

    `now` (Unix seconds) decides what has expired. E_ARG for a limit out of 1..1000, E_STORAGE
    for a damaged note.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise E_ARG(f"must be from 1 to {MAX_LIMIT}", field="limit")
    terms = find_terms(query)
    if not terms or not spaces:
        return []
    at = time.time() if now is None else now
    return await db.read(lambda connection: search(connection, tenant, spaces, terms, limit, at))


def search(
    connection: Connection,
    tenant: str,
    spaces: Sequence[str],
    terms: list[str],
    limit: int,
    now: float,
) -> list[Note]:
    """`recall` on one snapshot, for terms instead of a query."""
    space_ids = find_spaces(connection, tenant, spaces)
    if not space_ids:
        return []
    rows = connection.exec_driver_sql(
        CANDIDATES.format(spaces=marks(space_ids)),
        (match_expression(terms), *space_ids, now, MAX_CANDIDATES),
    ).all()
    notes: dict[str, Note] = {}
    for row in rows:
        note = read_note(connection, row.id, row.score, tenant, spaces)
        notes.setdefault(note.text, note)
        if len(notes) == limit:
            break
    return list(notes.values())


def find_spaces(connection: Connection, tenant: str, spaces: Sequence[str]) -> tuple[int, ...]:
    """The ids of those of the tenant's spaces that exist."""
    rows = connection.exec_driver_sql(
        f"SELECT id FROM space WHERE tenant = ? AND name IN ({marks(spaces)})", (tenant, *spaces)
    )
    return tuple(rows.scalars())


def read_note(
    connection: Connection, item_id: int, score: float, tenant: str, spaces: Sequence[str]
) -> Note:
    """An item as a note; E_STORAGE if it is not what was remembered, or not theirs."""
    row = read_sealed(connection, item_id)
    if row.tenant != tenant or row.space not in spaces:
        raise damage("the index of spaces is damaged")
    return Note(row.uid, row.body, score, row.kind, row.space, row.role, row.recorded_at)


def marks(values: Sequence[object]) -> str:
    """As many placeholders as there are values."""
    return ", ".join("?" * len(values))
