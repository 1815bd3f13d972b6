"""The rows of the store, and what binds them: row MACs, and digests of a set of rows.

A row's MAC is HMAC-SHA-512(derive(root, "store mac"), table name | every column but the MAC, in
schema order, each as length [4] | bytes)[:32]; an integer's bytes are its decimal digits, a
text's are UTF-8. A keyset's head row holds SHA-512 over the MACs of its key rows in key id
order, so that a row edited, swapped, added, dropped or put back by itself is seen.
"""

# No annotations from __future__ here: `typing` would compile the type of each column out of a
# string, which takes longer than all else in this module, at each start of a command.

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from strongroom import _events, _native
from strongroom.errors import KeyStoreError
from strongroom.keys import sql

__all__ = [
    "ROW_TYPES",
    "BackupRow",
    "HeldRow",
    "KeyRow",
    "KeysetRow",
    "LeaseRow",
    "MasterRow",
    "StoreRow",
    "UsageRow",
    "UseRow",
    "WrappedRow",
    "damaged",
    "digest",
    "row_fits",
    "row_mac",
    "sealed",
    "verified",
]

MAC_LENGTH = 32
_TYPES: dict[str, type] = {"int": int, "text": str, "blob": bytes}


class StoreRow(NamedTuple):
    """The store's own row: one a store."""

    id: int
    schema_version: int
    root_id: str
    cache_seconds: int
    generation: int
    masters_digest: bytes
    leases_digest: bytes
    created: int
    mac: bytes = b""


class MasterRow(NamedTuple):
    """A master and the root key that it wrapped, kind 04."""

    key_id: str
    uri: str
    recovery: int
    wrapped: bytes
    created: int
    mac: bytes = b""


class KeysetRow(NamedTuple):
    """A keyset's head row. `primary_id` is empty while there is no primary."""

    name: str
    purpose: str
    primary_id: str
    generation: int
    digest: bytes
    policy: str
    database_id: str
    database_settings: str
    created: int
    destroyed: int
    mac: bytes = b""


class KeyRow(NamedTuple):
    """A key, without its material."""

    key_id: str
    keyset: str
    version: int
    state: str
    since: int
    created: int
    activated: int
    deactivated: int
    reason: str
    rotation: str
    destroy_after: int
    mac: bytes = b""


class WrappedRow(NamedTuple):
    """A key's material: kind 04 under the root, and zeros once the key is destroyed."""

    key_id: str
    wrapped: bytes
    mac: bytes = b""


class UseRow(NamedTuple):
    """Something registered that needs a key: a database, a file."""

    id: str
    key_id: str
    name: str
    created: int
    mac: bytes = b""


class UsageRow(NamedTuple):
    """How much a key was used, as processes reported it."""

    key_id: str
    last_day: int
    messages: int
    volume: int
    opened: int
    mac: bytes = b""


class LeaseRow(NamedTuple):
    """How many messages of a key were granted, and how many it may ever write."""

    key_id: str
    spent: int
    most: int
    mac: bytes = b""


class BackupRow(NamedTuple):
    """A backup that was made: its id, the file's name, the store's generation, how many keys."""

    id: str
    name: str
    generation: int
    number: int
    created: int
    mac: bytes = b""


class HeldRow(NamedTuple):
    """A key and the first backup that holds it."""

    key_id: str
    backup: str
    mac: bytes = b""


Row = TypeVar(
    "Row",
    StoreRow,
    MasterRow,
    KeysetRow,
    KeyRow,
    WrappedRow,
    UseRow,
    UsageRow,
    LeaseRow,
    BackupRow,
    HeldRow,
)

_TABLES: dict[type, sql.Table] = {
    StoreRow: sql.STORE,
    MasterRow: sql.MASTERS,
    KeysetRow: sql.KEYSETS,
    KeyRow: sql.KEYS,
    WrappedRow: sql.WRAPPED,
    UseRow: sql.USES,
    UsageRow: sql.USAGE,
    LeaseRow: sql.LEASES,
    BackupRow: sql.BACKUPS,
    HeldRow: sql.HELD,
}

ROW_TYPES: dict[str, type] = {table.name: kind for kind, table in _TABLES.items()}


def damaged(what: str) -> KeyStoreError:
    """Return the error for a store whose rows don't authenticate; `what` names the place."""
    _events.report_failure("store.damaged", detail=what)
    return KeyStoreError(
        f"the key store is damaged or was changed by hand: {what}; "
        "nothing was written, restore it from a backup"
    )


def sealed(root: _native.MemoryLockedKey, row: Row) -> Row:
    """Return the row with its MAC made anew."""
    return row._replace(mac=row_mac(root, _TABLES[type(row)].name, row[:-1]))


def verified(root: _native.MemoryLockedKey, kind: type[Row], values: Sequence[Any]) -> Row:
    """Make a row of a database's values, and check their types and the MAC.

    Raises:
        KeyStoreError: A column has another type than the schema's, or the MAC doesn't fit.
    """
    table = _TABLES[kind]
    # SQLite gives back whatever type was stored, and PostgreSQL's drivers may give memoryview.
    values = [bytes(v) if isinstance(v, memoryview) else v for v in values]
    for column, value in zip(table.columns, values, strict=True):
        if type(value) is not _TYPES[column.kind]:
            raise damaged(f"column {column.name} of a row in {table.name} has another type")
    row = kind(*values)
    if not row_fits(root, table.name, row[:-1], row.mac):
        raise damaged(f"a row in {table.name} does not authenticate")
    return row


def row_mac(
    root: _native.MemoryLockedKey, table: str, values: Iterable[int | str | bytes]
) -> bytes:
    """Return the MAC, 32 bytes, of a row without its MAC column."""
    return _native.mac(root, "store mac", _joined(table, values))[:MAC_LENGTH]


def row_fits(
    root: _native.MemoryLockedKey, table: str, values: Iterable[int | str | bytes], mac: object
) -> bool:
    """Say whether a row without its MAC column has this MAC, in a time that tells nothing of it."""
    return (
        isinstance(mac, bytes)
        and len(mac) == MAC_LENGTH
        and _native.mac_fits(root, "store mac", _joined(table, values), mac)
    )


def _joined(table: str, values: Iterable[int | str | bytes]) -> bytes:
    parts = []
    for value in (table, *values):
        if isinstance(value, int):
            data = b"%d" % value
        elif isinstance(value, str):
            data = value.encode()
        else:
            data = value
        parts.append(len(data).to_bytes(4, "big"))
        parts.append(data)
    return b"".join(parts)


def digest(rows: Iterable[KeyRow | MasterRow | LeaseRow]) -> bytes:
    """Return SHA-512 over the MACs of rows, in the order of their key ids."""
    return _native.sha512(b"".join(row.mac for row in sorted(rows, key=lambda row: row.key_id)))
