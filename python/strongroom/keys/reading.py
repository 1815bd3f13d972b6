"""All keysets of a store, some at a time: a million of them don't fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from strongroom import _native
from strongroom.keys import sql
from strongroom.keys.database import Transaction
from strongroom.keys.keyset import Keyset, verified_keyset
from strongroom.keys.rows import ROW_TYPES, HeldRow, UsageRow, damaged, verified

__all__ = ["BLOCK", "Block", "Reading", "beside", "load_each", "rows_of"]

# How many keysets are in memory at a time: a few MiB.
BLOCK = 1000
R = TypeVar("R", HeldRow, UsageRow)

_BESIDE: dict[type, str] = {
    HeldRow: sql.SELECT_HELD_BETWEEN,
    UsageRow: sql.SELECT_USAGE_BETWEEN,
}
_KEYSET_COLUMN = [c.name for c in sql.KEYS.columns].index("keyset")


class Block(NamedTuple):
    """Some of a store's keysets.

    Attributes:
        keysets: The keysets, in the database's order.
        after: The name that they come after, "" for the first ones.
        last: The last one's name.
    """

    keysets: list[Keyset]
    after: str
    last: str


class Reading:
    """A reading of all keysets, some at a time, in the database's own order of their names.

    Each `some` may have a transaction of its own: a keyset is verified as a whole, and each is met
    that was there all the time.
    """

    def __init__(self) -> None:
        self._after = ""
        self._ends: set[str] = set()

    def some(self, transaction: Transaction, root: _native.MemoryLockedKey) -> Block:
        """Read and verify the next keysets, at most `BLOCK` of them; none when that was all.

        Done again before `went_on`, it returns the same ones.

        Raises:
            KeyStoreError: A row was edited, swapped, added or dropped. Whether a keyset is older
                than one that was seen is the caller's to look at.
        """
        if self._after:
            heads = transaction.execute(sql.select_next(sql.KEYSETS), (self._after, BLOCK))
        else:
            heads = transaction.execute(sql.select_first(sql.KEYSETS), (BLOCK,))
        if not heads:
            for (name,) in transaction.execute(sql.SELECT_KEYSET_AFTER, (self._after,)):
                raise damaged(f"the head of keyset {name!r} is missing")
            return Block([], "", "")
        last = heads[-1][0]
        # An index that was changed could go round for ever.
        if not isinstance(last, str) or last in self._ends:
            raise damaged("the names of its keysets are in no order")
        rows: dict[Any, list[Sequence[Any]]] = {}
        for row in transaction.execute(sql.SELECT_KEYS_BETWEEN, (self._after, last)):
            rows.setdefault(row[_KEYSET_COLUMN], []).append(row)
        keysets = [verified_keyset(root, head, rows.pop(head[0], [])) for head in heads]
        if rows:
            raise damaged(f"the head of keyset {min(map(repr, rows))} is missing")
        return Block(keysets, self._after, last)

    def went_on(self, block: Block) -> None:
        """Go on after what `some` returned."""
        self._after = block.last
        self._ends.add(block.last)


def load_each(transaction: Transaction, root: _native.MemoryLockedKey) -> Iterator[Block]:
    """Read all keysets and verify them, some at a time; what is given may be changed meanwhile.

    Raises:
        KeyStoreError: As `Reading.some`.
    """
    reading = Reading()
    while (block := reading.some(transaction, root)).keysets:
        yield block
        reading.went_on(block)


def rows_of(
    transaction: Transaction, root: _native.MemoryLockedKey, table: sql.Table
) -> Iterator[list[Any]]:
    """Read all rows of a table, some at a time, and verify each by itself.

    Raises:
        KeyStoreError: A row was edited.
    """
    kind: Any = ROW_TYPES[table.name]
    found = transaction.execute(sql.select_first(table), (BLOCK,))
    ends = set()
    while found:
        rows = [verified(root, kind, values) for values in found]
        yield rows
        last = rows[-1][0]
        if last in ends:
            raise damaged(f"the rows of {table.name} are in no order")
        ends.add(last)
        found = transaction.execute(sql.select_next(table), (last, BLOCK))


def beside(
    transaction: Transaction, root: _native.MemoryLockedKey, block: Block, kind: type[R]
) -> dict[str, R]:
    """Return by key id the rows of a kind that there are beside the keys of some keysets.

    Args:
        transaction: The reading.
        root: The store's root key.
        block: The keysets.
        kind: `HeldRow`: which keys a backup holds. `UsageRow`: how much they were used.

    Raises:
        KeyStoreError: A row was edited.
    """
    found = transaction.execute(_BESIDE[kind], (block.after, block.last))
    rows = [verified(root, kind, values) for values in found]
    return {row.key_id: row for row in rows}
