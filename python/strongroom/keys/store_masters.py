"""The masters of a store: listed, added, rotated, removed."""

from __future__ import annotations

from strongroom.errors import KeyNotFoundError, KeyStoreError
from strongroom.keys import events, sql
from strongroom.keys import root as roots
from strongroom.keys.base import StoreBase
from strongroom.keys.database import Transaction
from strongroom.keys.root import MasterInfo
from strongroom.keys.rows import MasterRow, StoreRow
from strongroom.masters.wrapped import MasterKeyProvider

__all__ = ["StoreMasters"]


class StoreMasters(StoreBase):
    """The methods of a `KeyStore` that concern its masters."""

    def masters(self) -> list[MasterInfo]:
        """Return the masters that open this store."""
        self._check()
        return [roots.info(row) for row in self._head()[1]]

    def add_master(self, master: MasterKeyProvider, *, recovery: bool = False) -> MasterInfo:
        """Let one more master open this store; no keyset key is touched.

        Args:
            master: The master; one call to its `wrap`.
            recovery: Note that it is kept for emergencies.

        Raises:
            KeyStoreError: It is a master of this store already.
            MasterKeyError: It refused.
        """
        self._check()
        self._check_writable()
        row = roots.master_row(self._root, master, self._now(), recovery=recovery)

        def work(transaction: Transaction, say: events.Say) -> None:
            store_row, masters = roots.locked(transaction, self._root)
            # The very row is there where a commit whose answer was lost took place after all.
            if row not in masters:
                if any(m.key_id == row.key_id for m in masters):
                    raise KeyStoreError(f"{row.uri} is a master of this store already")
                transaction.execute(sql.INSERT_MASTER, row)
                roots.save(transaction, self._root, store_row, [*masters, row])
            say("master.added", key_id=row.key_id, master=row.uri, recovery=recovery)

        self._write(work, roots.has_master(row.key_id, present=True))
        return roots.info(row)

    def rotate_master(self, key_id: str, master: MasterKeyProvider) -> MasterInfo:
        """Put a master in another's place, in one transaction; no keyset key is touched.

        Who has the old one and an old copy of the store still opens that: rotate the keysets.

        Args:
            key_id: Id of the master that goes.
            master: The one that comes. It may be the same: the root is then wrapped anew under
                the newest version of its key, inside the service where that can do it.

        Raises:
            KeyNotFoundError: The store has no such master.
            KeyStoreError: The new one is another master of this store already.
            MasterKeyError: It refused.
            TypeError: It is no master.
        """
        self._check()
        self._check_writable()
        roots.check_master(master)
        old = next((m for m in self._head()[1] if m.key_id == key_id), None)
        if old is None:
            raise KeyNotFoundError(f"no master {key_id} in this store", key_id=key_id)
        same = master.key_id == key_id
        row = roots.master_row(
            self._root,
            master,
            self._now(),
            recovery=bool(old.recovery),
            replaces=old.wrapped if same else None,
        )

        def work(transaction: Transaction, say: events.Say) -> None:
            store_row, masters = roots.locked(transaction, self._root)
            left = [m for m in masters if m.key_id != key_id]
            if row not in masters:
                if len(left) == len(masters):
                    raise KeyNotFoundError(f"no master {key_id} in this store", key_id=key_id)
                if any(m.key_id == row.key_id for m in left):
                    raise KeyStoreError(f"{row.uri} is a master of this store already")
                transaction.execute(sql.DELETE_MASTER, (key_id,))
                transaction.execute(sql.INSERT_MASTER, row)
                roots.save(transaction, self._root, store_row, [*left, row])
            say(
                "master.rotated",
                key_id=row.key_id,
                old_key_id=key_id,
                new_key_id=row.key_id,
                master=row.uri,
                recovery=bool(row.recovery),
            )

        self._write(work, roots.has_wrapping(row.wrapped))
        self._database.erase()
        return roots.info(row)

    def remove_master(self, key_id: str) -> None:
        """Take a master away. Who has it and an old copy of the store still opens that: rotate.

        Raises:
            KeyNotFoundError: It is no master of this store.
            KeyStoreError: It is the last one.
        """
        self._check()

        def work(transaction: Transaction, say: events.Say) -> None:
            store_row, masters = roots.locked(transaction, self._root)
            gone = [m for m in masters if m.key_id == key_id]
            left = [m for m in masters if m.key_id != key_id]
            if not gone:
                raise KeyNotFoundError(f"no master {key_id} in this store", key_id=key_id)
            if not left:
                raise KeyStoreError("the last master can't be removed: no one could open the store")
            transaction.execute(sql.DELETE_MASTER, (key_id,))
            roots.save(transaction, self._root, store_row, left)
            say(
                "master.removed",
                key_id=key_id,
                master=gone[0].uri,
                recovery=bool(gone[0].recovery),
            )

        self._write(work, roots.has_master(key_id, present=False))
        self._database.erase()

    def _head(self) -> tuple[StoreRow, list[MasterRow]]:
        return roots.verify_head(self._root, self._database.read(roots.read_head))
