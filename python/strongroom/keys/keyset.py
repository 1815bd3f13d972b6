"""A keyset as one verified whole, and what may be done to it.

`load` reads a keyset's head and key rows and checks every MAC, the head's digest and the order
of generations; the methods of `Keyset` make a changed copy, after the table of states; `save`
writes what differs. Nothing here knows of transactions, threads or masters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from strongroom import _native
from strongroom.errors import KeyNotFoundError, KeyStateError, KeyStoreError
from strongroom.keys import sql
from strongroom.keys.database import Transaction
from strongroom.keys.key import moment
from strongroom.keys.rows import KeyRow, KeysetRow, WrappedRow, damaged, digest, sealed, verified
from strongroom.keys.states import (
    ACTIVE,
    COMPROMISED,
    DEACTIVATED,
    DESTROYED,
    PRE_ACTIVE,
    STATES,
    SUSPENDED,
    may_become,
)

__all__ = [
    "DEFAULT_KEYSET",
    "PURPOSES",
    "Keyset",
    "check_name",
    "load",
    "save",
    "verified_keyset",
]

DEFAULT_KEYSET = "default"
PURPOSES = ("data", "database", "names", "audit")
NAME_BYTES = 255


def check_name(name: str) -> str:
    """Return a keyset's name after looking that it is one.

    Raises:
        TypeError: It is no text.
        ValueError: It is empty, longer than 255 bytes of UTF-8, or holds a control character.
    """
    if not isinstance(name, str):
        raise TypeError(f"a keyset's name must be str, not {type(name).__name__}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ValueError("a keyset's name must be valid Unicode") from None
    if not 1 <= size <= NAME_BYTES:
        raise ValueError(f"a keyset's name is 1 to {NAME_BYTES} bytes of UTF-8, not {size}")
    if any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in name):
        raise ValueError("a keyset's name can't hold control characters")
    return name


class Keyset:
    """The rows of one keyset. Never changed: the methods return another one.

    Attributes:
        head: The head row.
        keys: The key rows by key id, in key id order.
        wrapped: The wrapped keys by key id; of destroyed ones, zeros.
    """

    __slots__ = ("head", "keys", "wrapped")

    def __init__(self, head: KeysetRow, keys: dict[str, KeyRow], wrapped: dict[str, bytes]) -> None:
        self.head = head
        self.keys = keys
        self.wrapped = wrapped

    @classmethod
    def new(cls, name: str, purpose: str, policy: str, now: int) -> Keyset:
        """Return a keyset without keys that isn't in a store yet (generation 0)."""
        return cls(KeysetRow(name, purpose, "", 0, b"", policy, "", "", now, 0), {}, {})

    @property
    def primary(self) -> KeyRow | None:
        """The active key, or None."""
        return self.keys.get(self.head.primary_id)

    def in_order(self) -> list[KeyRow]:
        """Return the key rows, oldest first."""
        return sorted(self.keys.values(), key=lambda row: row.version)

    def key(self, key_id: str) -> KeyRow:
        """Return a key's row.

        Raises:
            KeyNotFoundError: The keyset has no such key.
        """
        try:
            return self.keys[key_id]
        except KeyError:
            raise KeyNotFoundError(
                f"no key {key_id} in keyset {self.head.name!r}", key_id=key_id
            ) from None

    def with_key(self, key_id: str, wrapped: bytes, now: int, rotation: str = "") -> Keyset:
        """Return the keyset with one more key, pre-active.

        Args:
            key_id: Its id.
            wrapped: Its wrapping under the root.
            now: The time, in microseconds.
            rotation: The rotation of the database that the keyset belongs to, which makes it.

        Raises:
            KeyStateError: The keyset was destroyed, or belongs to a database and this is not a
                rotation of that.
        """
        if self.head.database_id and not rotation:
            raise self._of_database()
        if self.head.destroyed:
            raise KeyStateError(
                f"keyset {self.head.name!r} was destroyed on {moment(self.head.destroyed):%Y-%m-%d}"
            )
        version = max((row.version for row in self.keys.values()), default=0) + 1
        row = KeyRow(key_id, self.head.name, version, PRE_ACTIVE, now, now, 0, 0, "", rotation, 0)
        return self._with(row, wrapped=wrapped)

    def activated(self, key_id: str, now: int, reason: str = "", *, rotation: str = "") -> Keyset:
        """Return the keyset with this key as its primary, and the old primary deactivated."""
        row = self.key(key_id)
        # A database's primary is the key that its file is under, never another one.
        own = rotation and row.rotation == rotation
        if self.head.database_id and row.state == PRE_ACTIVE and not own:
            raise self._of_database(row)
        if row.state == SUSPENDED and self.primary is not None:
            raise self._refused(row, ACTIVE, "the keyset has another primary: resume it instead")
        if row.destroy_after:
            raise self._refused(row, ACTIVE, f"it is to be {_when(row)}: undestroy it first")
        self._allowed(row, ACTIVE)
        keyset = self
        old = self.primary
        if old is not None:
            keyset = keyset._with(
                old._replace(state=DEACTIVATED, since=now, deactivated=now, reason=reason)
            )
        row = row._replace(state=ACTIVE, since=now, activated=now, reason=reason)
        return keyset._with(row, primary_id=key_id)

    def superseded(self, key_id: str, now: int, reason: str, *, rotation: str) -> Keyset:
        """Return the keyset with a rotation's key deactivated: it was in use, never as primary."""
        row = self.key(key_id)
        if row.state != PRE_ACTIVE or row.rotation != rotation:
            raise self._refused(row, DEACTIVATED, "it is not that rotation's")
        return self._with(
            row._replace(
                state=DEACTIVATED, since=now, activated=now, deactivated=now, reason=reason
            )
        )

    def retired(self, key_id: str, now: int, reason: str) -> Keyset:
        """Return the keyset with this key deactivated; itself if it is that already."""
        row = self.key(key_id)
        if row.state == DEACTIVATED:
            return self
        if row.state == ACTIVE:
            raise self._refused(row, DEACTIVATED, "it is the primary: rotate, and it is retired")
        if row.state == PRE_ACTIVE:
            raise self._refused(row, DEACTIVATED, "it was never used: destroy it")
        self._allowed(row, DEACTIVATED)
        return self._with(row._replace(state=DEACTIVATED, since=now, reason=reason))

    def suspended(self, key_id: str, now: int, reason: str) -> Keyset:
        """Return the keyset with this key suspended; without a primary if it was the primary."""
        return self._left(key_id, SUSPENDED, now, reason)

    def resumed(self, key_id: str, now: int, reason: str) -> Keyset:
        """Return the keyset with a suspended key active if it has no primary, else deactivated."""
        row = self.key(key_id)
        if row.state != SUSPENDED:
            raise self._refused(row, ACTIVE, "only a suspended key is resumed")
        if self.primary is None:
            return self.activated(key_id, now, reason)
        return self._with(row._replace(state=DEACTIVATED, since=now, reason=reason))

    def compromised(self, key_id: str, now: int, reason: str) -> Keyset:
        """Return the keyset with this key marked as known to others."""
        return self._left(key_id, COMPROMISED, now, reason)

    def destroyed(self, key_id: str, now: int, reason: str) -> Keyset:
        """Return the keyset with this key's wrapped bytes gone."""
        row = self.key(key_id)
        if row.state == ACTIVE:
            raise self._refused(row, DESTROYED, "it is the primary: rotate first")
        self._allowed(row, DESTROYED)
        return self._with(
            row._replace(state=DESTROYED, since=now, reason=reason, destroy_after=0),
            wrapped=bytes(len(self.wrapped[key_id])),
        )

    def to_be_destroyed(self, key_id: str, after: int, reason: str) -> Keyset:
        """Return the keyset with the time at which this key is to be destroyed."""
        row = self.key(key_id)
        if row.state == ACTIVE:
            raise self._refused(row, DESTROYED, "it is the primary: rotate first")
        self._allowed(row, DESTROYED)
        return self._with(row._replace(destroy_after=after, reason=reason))

    def kept(self, key_id: str, reason: str) -> Keyset:
        """Return the keyset with this key not to be destroyed; itself if it was not to be."""
        row = self.key(key_id)
        if row.state == DESTROYED:
            raise self._refused(row, DESTROYED, f"it was destroyed on {_day(row.since)}, for ever")
        if not row.destroy_after:
            return self
        return self._with(row._replace(destroy_after=0, reason=reason))

    def bound(self, database_id: str, settings: str) -> Keyset:
        """Return the keyset as the keys of this database alone."""
        head = self.head._replace(database_id=database_id, database_settings=settings)
        return Keyset(head, self.keys, self.wrapped)

    def with_policy(self, policy: str) -> Keyset:
        """Return the keyset with another policy."""
        return Keyset(self.head._replace(policy=policy), self.keys, self.wrapped)

    def all_destroyed(self, now: int, reason: str) -> Keyset:
        """Return the keyset with all keys destroyed, its primary too, and marked as destroyed."""
        keys = {
            key_id: row
            if row.state == DESTROYED
            else row._replace(
                state=DESTROYED,
                since=now,
                reason=reason,
                deactivated=now if row.state == ACTIVE else row.deactivated,
                destroy_after=0,
            )
            for key_id, row in self.keys.items()
        }
        zeros = {key_id: bytes(len(data)) for key_id, data in self.wrapped.items()}
        return Keyset(self.head._replace(primary_id="", destroyed=now), keys, zeros)

    def _left(self, key_id: str, state: str, now: int, reason: str) -> Keyset:
        row = self.key(key_id)
        self._allowed(row, state)
        deactivated = now if row.state == ACTIVE else row.deactivated
        primary_id = "" if row.state == ACTIVE else self.head.primary_id
        return self._with(
            row._replace(state=state, since=now, deactivated=deactivated, reason=reason),
            primary_id=primary_id,
        )

    def _with(
        self, row: KeyRow, *, primary_id: str | None = None, wrapped: bytes | None = None
    ) -> Keyset:
        head = self.head if primary_id is None else self.head._replace(primary_id=primary_id)
        keys = dict(sorted({**self.keys, row.key_id: row}.items()))
        material = self.wrapped if wrapped is None else {**self.wrapped, row.key_id: wrapped}
        return Keyset(head, keys, material)

    def _allowed(self, row: KeyRow, state: str) -> None:
        if not may_become(row.state, state):
            following = ", ".join(sorted(STATES[row.state].next)) or "nothing"
            raise self._refused(row, state, f"from there it may become: {following}")

    def _of_database(self, row: KeyRow | None = None) -> KeyStateError:
        return KeyStateError(
            f"keyset {self.head.name!r} belongs to a database, whose file must change with its "
            "key: rotate it by DatabaseKeyRotation, or `strongroom db rotate`",
            key_id=row.key_id if row else None,
            state=row.state if row else None,
        )

    def _refused(self, row: KeyRow, state: str, why: str) -> KeyStateError:
        return KeyStateError(
            f"key {row.key_id} of keyset {self.head.name!r} is {row.state} "
            f"and can't become {state}: {why}",
            key_id=row.key_id,
            state=row.state,
        )


def _day(microseconds: int) -> str:
    return f"{moment(microseconds):%Y-%m-%d}"


def _when(row: KeyRow) -> str:
    return f"destroyed after {moment(row.destroy_after):%Y-%m-%d %H:%M} UTC"


def load(
    transaction: Transaction,
    root: _native.MemoryLockedKey,
    name: str,
    newest: tuple[int, bytes] | None,
    *,
    lock: bool = False,
) -> Keyset | None:
    """Read a keyset and verify it.

    Args:
        transaction: Where to read.
        root: The store's root key.
        name: The keyset's name.
        newest: What `Seen.get` gave BEFORE the transaction began.
        lock: Keep other writers off the keyset until the commit.

    Returns:
        The keyset, or None if there is none of that name.

    Raises:
        KeyStoreError: A row was edited, swapped, added, dropped or put back.
    """
    statement = sql.SELECT_KEYSET + (transaction.for_update if lock else "")
    heads = transaction.execute(statement, (name,))
    rows = transaction.execute(sql.SELECT_KEYS, (name,))
    if not heads:
        if rows or newest:
            raise damaged(f"the head of keyset {name!r} is missing")
        return None
    keyset = verified_keyset(root, heads[0], rows)
    if keyset.head.name != name:
        raise damaged(f"the head of keyset {name!r} is another keyset's")
    _check_order(keyset.head, newest)
    return keyset


def save(
    transaction: Transaction, root: _native.MemoryLockedKey, before: Keyset | None, after: Keyset
) -> Keyset:
    """Write what differs between two states of a keyset, and return the second as written.

    Args:
        transaction: Where to write; it holds the keyset's lock.
        root: The store's root key.
        before: What is in the store; None for a keyset that isn't yet.
        after: What is to be there.
    """
    known = before.keys if before else {}
    keys = {i: row if known.get(i) == row else sealed(root, row) for i, row in after.keys.items()}
    changed = [row for row in keys.values() if row.key_id in known and row != known[row.key_id]]
    added = [row for row in keys.values() if row.key_id not in known]
    # The active one last: the index allows one a keyset at any moment.
    for row in sorted(changed, key=lambda row: row.state == ACTIVE):
        transaction.execute(sql.UPDATE_KEY, (*row, row.key_id))
    for row in sorted(added, key=lambda row: row.version):
        transaction.execute(sql.INSERT_KEY, row)
    for key_id, data in after.wrapped.items():
        wrapped = WrappedRow(key_id, data)
        if key_id not in known:
            transaction.execute(sql.INSERT_WRAPPED, sealed(root, wrapped))
        elif before and before.wrapped[key_id] != data:
            transaction.execute(sql.UPDATE_WRAPPED, (*sealed(root, wrapped), key_id))
    head = sealed(
        root,
        after.head._replace(generation=after.head.generation + 1, digest=digest(keys.values())),
    )
    if before:
        transaction.execute(sql.UPDATE_KEYSET, (*head, head.name))
    else:
        transaction.execute(sql.INSERT_KEYSET, head)
    return Keyset(head, keys, after.wrapped)


def verified_keyset(
    root: _native.MemoryLockedKey, head_values: Sequence[Any], key_values: Sequence[Sequence[Any]]
) -> Keyset:
    """Make a keyset of the rows of its head and its keys, and look that they are what was written.

    Raises:
        KeyStoreError: A row was edited, swapped, added, dropped or put back by itself.
    """
    head = verified(root, KeysetRow, head_values)
    width = len(sql.KEYS.columns)
    pairs = sorted(
        (verified(root, KeyRow, v[:width]), verified(root, WrappedRow, v[width:]))
        for v in key_values
    )
    rows = [row for row, _ in pairs]
    keyset = Keyset(
        head,
        {row.key_id: row for row in rows},
        {wrapped.key_id: wrapped.wrapped for _, wrapped in pairs},
    )
    active = [row.key_id for row in rows if row.state == ACTIVE]
    if (
        digest(rows) != head.digest
        or len(keyset.keys) != len(rows)
        or any(row.keyset != head.name or row.state not in STATES for row in rows)
        or active != ([head.primary_id] if head.primary_id else [])
    ):
        raise damaged(f"the keys of keyset {head.name!r} are not those that its head names")
    for row in rows:
        # A destroyed key's bytes that were put back authenticate, by themselves.
        if any(keyset.wrapped[row.key_id]) != STATES[row.state].has_material:
            raise damaged(f"the bytes of key {row.key_id} don't fit its state")
    return keyset


def _check_order(head: KeysetRow, newest: tuple[int, bytes] | None) -> None:
    if newest is None:
        return
    generation, mac = newest
    if head.generation < generation or (head.generation == generation and head.mac != mac):
        raise KeyStoreError(
            f"the key store is older than it was: keyset {head.name!r} is at generation "
            f"{head.generation}, and this process has seen {generation}. If it was restored from "
            "a backup, start anew and check what was rotated or destroyed since"
        )
