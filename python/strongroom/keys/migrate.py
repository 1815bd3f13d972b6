"""From an older schema to this release's: the whole store anew, in one transaction.

Row MACs cover every column, so a new column changes every MAC of its table: each row is verified
under the old schema, handed through the steps, and sealed under the new one.

A new schema is made by putting the old `TABLES` into `sql.OLD_TABLES`, raising
`sql.SCHEMA_VERSION`, and adding the step between the two here. In every schema the masters' table
has `key_id`, `uri` and `wrapped`, and the store's row has `root_id`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from strongroom import _native
from strongroom.errors import KeyStoreError
from strongroom.keys import events, sql
from strongroom.keys import root as roots
from strongroom.keys.database import Database, Transaction
from strongroom.keys.rows import (
    ROW_TYPES,
    KeyRow,
    KeysetRow,
    LeaseRow,
    MasterRow,
    StoreRow,
    damaged,
    digest,
    row_fits,
    sealed,
)
from strongroom.masters.wrapped import MasterKeyProvider

__all__ = ["STEPS", "migrate", "read_old_head"]

Tables = dict[str, list[dict[str, Any]]]

# From a version to the next: what becomes of all rows, by table and column. MACs, digests and the
# schema version are made anew afterwards.
STEPS: dict[int, Callable[[Tables], Tables]] = {}


def migrate(
    database: Database,
    master: MasterKeyProvider,
    backup: str | os.PathLike[str] | None = None,
) -> bool:
    """Bring a store to this release's schema; see `KeyStore.migrate`.

    Returns:
        False if it has it already.

    Raises:
        KeyStoreError: It is damaged, or of a schema that this release doesn't know.
        MasterKeyError: It is not a master of this store, or refused.
    """
    version = database.schema_version()
    if version == sql.SCHEMA_VERSION:
        return False
    old = {table.name: table for table in sql.OLD_TABLES[version]}
    # The master is called before the transaction: nothing slow happens under the lock.
    tables = database.read(lambda transaction: _read(transaction, old))
    head = _head(tables)
    root, opened_by = roots.open_root(master, head)
    _verify(root, old, tables)
    events.say_recovery(root, opened_by)
    if backup is not None:
        _save(os.path.abspath(os.fspath(backup)), tuple(old.values()), tables)

    def rebuild(transaction: Transaction) -> None:
        if transaction.execute(sql.SELECT_VERSION) != [(version,)]:
            raise KeyStoreError("another process migrated the key store at the same time")
        tables = _read(transaction, old)
        _verify(root, old, tables)
        for step in range(version, sql.SCHEMA_VERSION):
            tables = STEPS[step](tables)
        for name in old:
            transaction.execute(f"DROP TABLE {name}")
        for statement in database.create_statements():
            transaction.execute(statement)
        _write(transaction, root, tables)

    try:
        database.rebuild(rebuild)
    finally:
        root.destroy()
    return True


def read_old_head(database: Database, version: int) -> roots.Head:
    """Read what an older store says of itself and its masters, in this release's columns."""
    old = {table.name: table for table in sql.OLD_TABLES[version]}
    return _head(database.read(lambda transaction: _read(transaction, old)))


def _head(tables: Tables) -> roots.Head:
    (store,) = tables[sql.STORE.name]
    filled = [
        tuple(row.get(c.name, _EMPTY[c.kind]) for c in sql.MASTERS.columns)
        for row in tables[sql.MASTERS.name]
    ]
    values = tuple(store.get(c.name, _EMPTY[c.kind]) for c in sql.STORE.columns)
    return roots.Head(values, filled)


def _save(path: str, old: tuple[sql.Table, ...], tables: Tables) -> None:
    """Write rows as they are into a new SQLite file of their own schema."""
    from strongroom.keys.sqlite import create_file

    def fill(transaction: Transaction) -> None:
        for table in old:
            for row in tables[table.name]:
                values = [bytes(v) if isinstance(v, memoryview) else v for v in row.values()]
                transaction.execute(sql.insert(table), values)

    create_file(path, fill, tables=old)


_EMPTY: dict[str, Any] = {"int": 0, "text": "", "blob": b""}


def _read(transaction: Transaction, old: dict[str, sql.Table]) -> Tables:
    return {
        name: [
            dict(zip((c.name for c in table.columns), values, strict=True))
            for values in transaction.execute(f"SELECT {table.names} FROM {name}")  # noqa: S608
        ]
        for name, table in old.items()
    }


def _verify(root: _native.MemoryLockedKey, old: dict[str, sql.Table], tables: Tables) -> None:
    for name, rows in tables.items():
        for row in rows:
            values = [bytes(v) if isinstance(v, memoryview) else v for v in row.values()]
            if not row_fits(root, name, values[:-1], values[-1]):
                raise damaged(f"a row in {name} does not authenticate")
    (store,) = tables[sql.STORE.name]
    if _digest(tables[sql.MASTERS.name]) != store["masters_digest"]:
        raise damaged("its masters are not those that its own row names")
    keys = tables[sql.KEYS.name]
    heads = {head["name"]: head for head in tables[sql.KEYSETS.name]}
    if not {row["keyset"] for row in keys} <= heads.keys():
        raise damaged("the head of a keyset is missing")
    for name, head in heads.items():
        if _digest([row for row in keys if row["keyset"] == name]) != head["digest"]:
            raise damaged(f"the keys of keyset {name!r} are not those that its head names")


def _digest(rows: list[dict[str, Any]]) -> bytes:
    # Only id and MAC count, which every schema has.
    shown = (LeaseRow(r["key_id"], 0, 0, bytes(r["mac"])) for r in rows)
    return digest(shown)


def _write(transaction: Transaction, root: _native.MemoryLockedKey, tables: Tables) -> None:
    """Seal and insert all rows: digests after what they are over, a generation more each."""
    rows: dict[str, list[Any]] = {}
    for table in sql.TABLES:
        kind = ROW_TYPES[table.name]
        rows[table.name] = [
            kind(**{c.name: row[c.name] for c in table.columns})
            for row in tables.get(table.name, [])
        ]
    keys: list[KeyRow] = [sealed(root, row) for row in rows[sql.KEYS.name]]
    leases: list[LeaseRow] = [sealed(root, row) for row in rows[sql.LEASES.name]]
    masters: list[MasterRow] = [sealed(root, row) for row in rows[sql.MASTERS.name]]
    heads: list[KeysetRow] = [
        row._replace(
            generation=row.generation + 1,
            digest=digest(key for key in keys if key.keyset == row.name),
        )
        for row in rows[sql.KEYSETS.name]
    ]
    stores: list[StoreRow] = [
        row._replace(
            schema_version=sql.SCHEMA_VERSION,
            generation=row.generation + 1,
            masters_digest=digest(masters),
            leases_digest=digest(leases),
        )
        for row in rows[sql.STORE.name]
    ]
    rows |= {sql.KEYSETS.name: heads, sql.STORE.name: stores}
    for table in sql.TABLES:
        for row in rows[table.name]:
            transaction.execute(sql.insert(table), sealed(root, row))
