"""Backups of a store: a consistent copy in one SQLite file, whatever database the store is in.

A backup is a store itself, with the same rows and the same masters. It is made beside writers, in
one transaction's view, looked through row by row before it gets its name, and then noted in the
store: which backups there are, and of each key the first one that holds it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

from strongroom import _native
from strongroom.errors import KeyStateError
from strongroom.keys import events, sql
from strongroom.keys import keyset as keysets
from strongroom.keys import policy as policies
from strongroom.keys import root as roots
from strongroom.keys.base import StoreBase
from strongroom.keys.database import Database, Transaction
from strongroom.keys.key import Key, moment
from strongroom.keys.keyset import Keyset
from strongroom.keys.leases import read_leases
from strongroom.keys.rows import BackupRow, HeldRow, sealed, verified
from strongroom.keys.sqlite import create_file
from strongroom.keys.states import DESTROYED, PRE_ACTIVE

__all__ = ["BackupInfo", "Backups", "copy_rows", "read_verified"]

# All rows of all tables, by the names of the tables.
Tables = dict[str, list[tuple[Any, ...]]]


class BackupInfo(NamedTuple):
    """A backup, as the store that it was made of remembers it.

    Attributes:
        id: Its id, 32 hex digits.
        name: The file's name when it was made, without its directory.
        generation: The store's generation in it.
        keys: How many keys it holds, destroyed ones not counted.
        created: When it was made, in UTC.
    """

    id: str
    name: str
    generation: int
    keys: int
    created: datetime


class Backups(StoreBase):
    """The methods of a `KeyStore` that concern its backups."""

    def backup(self, path: str | os.PathLike[str]) -> BackupInfo:
        """Copy the store as it is at one moment into a new file, and note that in the store.

        Writers go on meanwhile. The copy opens with the same masters: keep it, and them, apart
        from the store. Keys that wait for a backup (`Policy.promote`) become primaries.

        Args:
            path: The file to make, mode 0600.

        Returns:
            What the store remembers of it.

        Raises:
            FileExistsError: Something of that name is there.
            KeyStoreError: The store is damaged: what does not authenticate is not backed up.
            OSError: The file can't be written.
        """
        self._check()
        self._check_writable()
        target = os.path.abspath(os.fspath(path))
        tables, generation, ids = read_verified(self._root, self._database)
        # In a rollback journal: a backup is read where nothing can be written beside it.
        create_file(target, lambda transaction: copy_rows(transaction, tables), wal=False)
        row = BackupRow(
            os.urandom(16).hex(), os.path.basename(target), generation, len(ids), self._now()
        )

        def work(transaction: Transaction, say: events.Say) -> None:
            there = {values[0] for values in transaction.execute(sql.SELECT_ALL_HELD)}
            transaction.execute(sql.INSERT_BACKUP, sealed(self._root, row))
            for key_id in sorted(ids - there):
                held = sealed(self._root, HeldRow(key_id, row.id))
                transaction.execute(sql.INSERT_HELD, held)
            say("store.backup", generation=generation, count=len(ids), detail=row.id)

        self._write(
            work, lambda t: any(row.id in values for values in t.execute(sql.SELECT_BACKUPS))
        )
        self._promote()
        return _info(row)

    def backups(self) -> list[BackupInfo]:
        """Return the backups that were made of this store, oldest first."""
        self._check()
        found = self._database.read(lambda t: t.execute(sql.SELECT_BACKUPS))
        rows = [verified(self._root, BackupRow, values) for values in found]
        return [_info(row) for row in sorted(rows, key=lambda row: (row.created, row.id))]

    def generation(self) -> int:
        """Return a number that every change of a key, a keyset or a master raises.

        Kept elsewhere, it shows an older copy of the whole store that was put back: see `check`.
        """
        self._check()
        store, _ = roots.verify_head(self._root, self._database.read(roots.read_head))
        return store.generation + sum(keyset.head.generation for keyset in self._load_all())

    def held_keys(self) -> dict[str, str]:
        """Return the ids of the keys that a backup holds, with the id of the first that does."""
        self._check()
        found = self._database.read(lambda t: t.execute(sql.SELECT_ALL_HELD))
        rows = [verified(self._root, HeldRow, values) for values in found]
        return {row.key_id: row.backup for row in rows}

    def _promote(self) -> list[Key]:
        """Make the newest key that waited for a backup the primary, in each keyset."""
        promoted = []
        for keyset in self._load_all():
            if policies.load(keyset.head.policy).promote != policies.AFTER_BACKUP:
                continue
            name = keyset.head.name

            def plan(before: Keyset, transaction: Transaction) -> Keyset:
                held = [
                    row.key_id
                    for row in before.in_order()
                    if row.state == PRE_ACTIVE
                    and not row.destroy_after
                    and transaction.execute(sql.SELECT_HELD, (row.key_id,))
                ]
                return before.activated(held[-1], self._now(), "backed up") if held else before

            try:
                after = self._change(name, plan)
            except KeyStateError:
                continue  # a database's keyset: its own rotation promotes
            if after.primary is not None:
                promoted.append(Key._of(after.primary, after.head.purpose))
        return promoted


def copy_rows(transaction: Transaction, tables: Tables) -> None:
    """Insert rows as they are, MACs too, into empty tables."""
    for table in sql.TABLES:
        statement = sql.insert(table)
        for values in tables[table.name]:
            transaction.execute(statement, [_plain(value) for value in values])


def _plain(value: object) -> object:
    return bytes(value) if isinstance(value, memoryview) else value


def _all_rows(transaction: Transaction) -> Tables:
    return {table.name: transaction.execute(sql.select_all(table)) for table in sql.TABLES}


class _Rows:
    """Rows that were read, in the place of the transaction that they came from."""

    for_update = ""

    def __init__(self, tables: Tables) -> None:
        wrapped = {values[0]: values for values in tables[sql.WRAPPED.name]}
        empty = (None,) * len(sql.WRAPPED.columns)
        self._answers: dict[str, list[tuple[Any, ...]]] = {
            sql.SELECT_STORE: tables[sql.STORE.name],
            sql.SELECT_MASTERS: tables[sql.MASTERS.name],
            sql.SELECT_ALL_KEYSETS: tables[sql.KEYSETS.name],
            sql.SELECT_ALL_KEYS: [
                (*values, *wrapped.get(values[0], empty)) for values in tables[sql.KEYS.name]
            ],
            sql.SELECT_LEASES: tables[sql.LEASES.name],
        }

    def execute(self, statement: str, _: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        return self._answers[statement]


def _verify(root: _native.MemoryLockedKey, tables: Tables) -> tuple[int, set[str]]:
    """Authenticate rows, and return their generation and the ids of the keys that they hold.

    Raises:
        KeyStoreError: Something doesn't authenticate.
    """
    rows = _Rows(tables)
    store, _ = roots.verify_head(root, roots.read_head(rows))
    read_leases(rows, root, store)
    found = keysets.load_all(rows, root, {})
    ids = {row.key_id for k in found for row in k.keys.values() if row.state != DESTROYED}
    return store.generation + sum(k.head.generation for k in found), ids


def _info(row: BackupRow) -> BackupInfo:
    return BackupInfo(row.id, row.name, row.generation, row.number, moment(row.created))


def read_verified(
    root: _native.MemoryLockedKey, database: Database
) -> tuple[Tables, int, set[str]]:
    """Read a whole store, and authenticate it.

    Returns:
        Its rows, its generation, and the ids of the keys that it holds.

    Raises:
        KeyStoreError: Something doesn't authenticate.
    """
    tables = database.read(_all_rows)
    return tables, *_verify(root, tables)
