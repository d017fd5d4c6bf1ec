"""The seal of a remembered item: the checksum over all that is served of it, and whose it is.

Tenant and space are in it by name, so an item does not follow a space whose row was damaged into
somebody else's. Whatever changes an item seals it again, after it was found sound.
"""

from typing import Any

from sqlalchemy import Connection

from .checksum import checksum, damage

SEALED = (
    "SELECT uid, space.tenant AS tenant, space.name AS space, kind, role, recorded_at, valid_to,"
    " superseded_by, deleted_at, body, checksum"
    " FROM item JOIN space ON space.id = item.space_id WHERE item.id = ?"
)


def seal(connection: Connection, item_id: int) -> None:
    """Take what the item is now for true. The caller has just written it."""
    row = connection.exec_driver_sql(SEALED, (item_id,)).one()
    connection.exec_driver_sql(
        "UPDATE item SET checksum = ? WHERE id = ?", (checksum(*row[:-1]), item_id)
    )


def read_sealed(connection: Connection, item_id: int) -> Any:
    """The columns of SEALED. E_STORAGE if the item is not what was remembered."""
    row = connection.exec_driver_sql(SEALED, (item_id,)).first()
    if row is None:
        raise damage(f"note number {item_id} is missing, or its space")
    if checksum(*row[:-1]) != row.checksum:
        raise damage(f"note {row.uid} is damaged")
    return row
