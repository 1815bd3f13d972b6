"""Backups of a store: a consistent copy in one SQLite file, whatever database the store is in.

A backup is a store itself, with the same rows and the same masters. It is made beside writers, in
one transaction's view, looked through row by row before it gets its name, and then noted in the
store: which backups there are, and of each key the first one that holds it. Some thousand rows are
in memory at a time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import NamedTuple

from strongroom import _native
from strongroom.errors import KeyStateError
from strongroom.keys import events, sql
from strongroom.keys import policy as policies
from strongroom.keys import root as roots
from strongroom.keys.base import StoreBase
from strongroom.keys.database import Database, Transaction
from strongroom.keys.key import Key, moment
from strongroom.keys.keyset import Keyset
from strongroom.keys.leases import read_leases
from strongroom.keys.reading import beside, load_each, rows_of
from strongroom.keys.rows import BackupRow, HeldRow, sealed, verified
from strongroom.keys.sqlite import create_file
from strongroom.keys.states import DESTROYED, PRE_ACTIVE

__all__ = ["BackupInfo", "Backups", "Copied"]

_ID_LENGTH = 16


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
        copied = Copied()
        # In a rollback journal: a backup is read where nothing can be written beside it.
        create_file(target, lambda new: copied.copy(self._root, self._database, new), wal=False)
        row = BackupRow(
            os.urandom(16).hex(),
            os.path.basename(target),
            copied.generation,
            copied.number,
            self._now(),
        )

        def noted(transaction: Transaction) -> bool:
            return any(row.id in values for values in transaction.execute(sql.SELECT_BACKUPS))

        def work(transaction: Transaction, say: events.Say) -> None:
            if not noted(transaction):
                transaction.execute(sql.INSERT_BACKUP, sealed(self._root, row))
            for key_id in copied.held_first():
                # Where another backup was made meanwhile, this changes nothing.
                held = sealed(self._root, HeldRow(key_id, row.id))
                transaction.execute(sql.INSERT_HELD, held)
            say("store.backup", generation=row.generation, count=row.number, detail=row.id)

        self._write(work, noted)
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
        return store.generation + sum(keyset.head.generation for keyset in self._all())

    def held_keys(self) -> dict[str, str]:
        """Return the ids of the keys that a backup holds, with the id of the first that does."""
        self._check()
        found = self._read(
            lambda t: [row for some in rows_of(t, self._root, sql.HELD) for row in some]
        )
        return {row.key_id: row.backup for row in found}

    def _promote(self) -> list[Key]:
        """Make the newest key that waited for a backup the primary, in each keyset."""
        promoted = []
        names = [
            keyset.head.name
            for keyset in self._all()
            if policies.load(keyset.head.policy).promote == policies.AFTER_BACKUP
        ]
        for name in names:

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


class Copied:
    """A copy of a store's rows, MACs too, and what was found when it was looked through.

    Attributes:
        generation: The store's generation in it.
        number: How many keys it holds, destroyed ones not counted.
    """

    def __init__(self) -> None:
        self.generation = 0
        self.number = 0
        # Ids of 16 bytes each: there may be a million.
        self._first = bytearray()

    def copy(
        self,
        root: _native.MemoryLockedKey,
        source: Database,
        target: Transaction,
        look: Callable[[Keyset], None] = lambda _: None,
    ) -> None:
        """Copy all rows as they are at one moment, and authenticate what was copied.

        Args:
            root: The store's root key.
            source: The store.
            target: Where there are empty tables.
            look: Called with each keyset.

        Raises:
            KeyStoreError: Something doesn't authenticate.
        """
        source.read(lambda transaction: _copy_rows(root, transaction, target))
        store, _ = roots.verify_head(root, roots.read_head(target))
        read_leases(target, root, store)
        self.generation = store.generation
        for block in load_each(target, root):
            held = beside(target, root, block, HeldRow)
            for keyset in block.keysets:
                look(keyset)
                self.generation += keyset.head.generation
                for row in keyset.keys.values():
                    if row.state != DESTROYED:
                        self.number += 1
                        if row.key_id not in held:
                            self._first += bytes.fromhex(row.key_id)

    def held_first(self) -> Iterator[str]:
        """Give the ids of the keys that no backup held before."""
        for at in range(0, len(self._first), _ID_LENGTH):
            yield self._first[at : at + _ID_LENGTH].hex()


def _copy_rows(root: _native.MemoryLockedKey, source: Transaction, target: Transaction) -> None:
    for table in sql.TABLES:
        # A reading that broke off is begun again.
        target.execute(sql.delete_all(table))
        statement = sql.insert(table)
        for rows in rows_of(source, root, table):
            for row in rows:
                target.execute(statement, row)


def _info(row: BackupRow) -> BackupInfo:
    return BackupInfo(row.id, row.name, row.generation, row.number, moment(row.created))
