"""Leases: the messages of keys with a hard limit, counted durably and across processes.

AES-GCM under random 96-bit nonces, as in an HSM, ends at 2^32 messages a key (SP 800-38D, 8.3). A
process takes a lease of some thousand messages before it writes the first of them: what it
doesn't use is lost, so that a crash counts too many and never too few. The rows are bound by the
store's own row, as masters are: one that is edited, dropped or put back is seen.
"""

from __future__ import annotations

import re

from strongroom import _events, _native
from strongroom.errors import LimitError
from strongroom.keys import events, sql
from strongroom.keys import root as roots
from strongroom.keys.base import StoreBase
from strongroom.keys.database import Transaction
from strongroom.keys.rows import LeaseRow, StoreRow, damaged, digest, sealed, verified

__all__ = ["MOST", "Leases", "read_leases", "save_leases"]

# What an integer column holds, in both databases, and room to add to it.
MOST = 2**62


class Leases(StoreBase):
    """The methods of a `KeyStore` that count."""

    def lease_messages(self, key_id: str, count: int, limit: int) -> int:
        """Take a number of messages out of what a key has left, durably, before they are written.

        The key need not be in a keyset: a token's key isn't. What was granted is never given
        back or granted again, also when this process dies or the answer of the database is lost.

        Args:
            key_id: The key's id, 32 hex digits.
            count: How many are wanted, at least 1.
            limit: How many a key may ever write, at least 1; the same in every process.

        Returns:
            How many were granted: `count`, or less where less is left; at least 1.

        Raises:
            LimitError: None is left: the key must be replaced.
            ValueError: It is no key id, or a number is out of its range.
        """
        _check_key_id(key_id)
        for name, value in (("count", count), ("limit", limit)):
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} is a whole number, not {type(value).__name__}")
            if not 1 <= value <= MOST:
                raise ValueError(f"{name} is from 1 to 2^62")
        self._check()
        self._check_writable()

        def work(transaction: Transaction, say: events.Say) -> int:
            store_row, _ = roots.locked(transaction, self._root)
            rows = read_leases(transaction, self._root, store_row)
            before = rows.get(key_id)
            spent = before.spent if before else 0
            granted = min(count, limit - spent)
            if granted < 1:
                _events.report_failure("key.limit", key_id=key_id, count=spent, store=self._root_id)
                raise LimitError(
                    f"key {key_id} has written all the {limit} messages that it may: make a new "
                    "key, and use that"
                )
            row = sealed(self._root, LeaseRow(key_id, spent + granted, limit))
            if before:
                transaction.execute(sql.UPDATE_LEASE, (*row, key_id))
            else:
                transaction.execute(sql.INSERT_LEASE, row)
            save_leases(transaction, self._root, store_row, {**rows, key_id: row})
            alarm = limit - limit // 16
            if spent < alarm <= spent + granted:
                say("key.limit", key_id=key_id, count=spent + granted, detail=f"of {limit}")
            return granted

        # After a lost answer the lease is taken once more: whether this row is this process's or
        # another's can't be told, and one too many is what a lease may cost.
        return self._write(work, lambda _: False)

    def leased_messages(self, key_id: str) -> int:
        """Return how many messages of a key were granted so far; 0 for one never counted."""
        _check_key_id(key_id)
        self._check()

        def work(transaction: Transaction) -> int:
            store_row, _ = roots.verify_head(self._root, roots.read_head(transaction))
            row = read_leases(transaction, self._root, store_row).get(key_id)
            return row.spent if row else 0

        return self._database.read(work)


def read_leases(
    transaction: Transaction, root: _native.MemoryLockedKey, store: StoreRow
) -> dict[str, LeaseRow]:
    """Read and authenticate the leases of a store, by key id.

    Raises:
        KeyStoreError: A row was edited, added, dropped or put back.
    """
    rows = [verified(root, LeaseRow, v) for v in transaction.execute(sql.SELECT_LEASES)]
    if digest(rows) != store.leases_digest:
        raise damaged("the counts of messages are not those that the store's own row names")
    return {row.key_id: row for row in rows}


def save_leases(
    transaction: Transaction,
    root: _native.MemoryLockedKey,
    store: StoreRow,
    leases: dict[str, LeaseRow],
) -> None:
    """Write the store's row for a new set of leases."""
    row = sealed(
        root,
        store._replace(generation=store.generation + 1, leases_digest=digest(leases.values())),
    )
    transaction.execute(sql.UPDATE_STORE, (*row, row.id))


def _check_key_id(key_id: str) -> None:
    if not isinstance(key_id, str):
        raise TypeError(f"a key id is 32 hex digits in str, not {type(key_id).__name__}")
    if not re.fullmatch("[0-9a-f]{32}", key_id):
        raise ValueError("a key id is 32 lower-case hex digits")
